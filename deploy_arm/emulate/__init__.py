"""Programs run and counted without an ARM CPU."""
