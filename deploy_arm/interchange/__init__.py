"""Compiled networks in the formats of others."""
