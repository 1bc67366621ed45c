"""ACME: certificates by themselves, for whoever controls the names (RFC 8555)."""
