"""Configuration profiles for devices: what brings a phone or a laptop to an endpoint."""
