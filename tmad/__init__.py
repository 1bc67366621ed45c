"""The Trust Management Appliance daemon."""
