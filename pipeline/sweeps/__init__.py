"""Sweeps: many searches of one file, their table and page, and what starts them on a schedule."""
