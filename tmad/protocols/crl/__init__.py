"""CRL and CA certificate download (RFC 5280, RFC 2585)."""
