"""What runs and profiles programs: emulated or a real ARM CPU."""
