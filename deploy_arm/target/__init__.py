"""Cores, compilers and tools."""
