"""Byte formats that several protocols share: pure, no I/O."""
