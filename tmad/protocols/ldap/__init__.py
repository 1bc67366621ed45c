"""LDAP: people, devices, authorities and their certificates, read live from the database."""
