"""Records of the journal for log collectors (RFC 5424, 5425, 5426, 6587)."""
