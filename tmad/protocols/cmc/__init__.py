"""Certificate Management over CMS (RFC 10002, 10003 and 10004)."""
