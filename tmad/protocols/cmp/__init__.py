"""Certificate Management Protocol: RFC 9810, 9811, 9483, 9481."""
