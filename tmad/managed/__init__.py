"""Managed objects: tenants, authorities, profiles, endpoints and grants as documents."""
