"""Time-stamp protocol (RFC 3161, 5816)."""
