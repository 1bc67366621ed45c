"""Links that hand configuration profiles to devices."""
