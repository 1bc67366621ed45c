"""Everything that owns a socket, a TLS context or a timer."""
