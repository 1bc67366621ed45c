"""Agents' reports: the appliance's side of ``tmad agent``."""
