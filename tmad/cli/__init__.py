"""The tmad command: one module a noun."""
