"""What the core knows of ACME: accounts, orders, authorisations, renewal information (RFC 8555)."""
