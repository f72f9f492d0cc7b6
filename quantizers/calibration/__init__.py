"""Layers rebuilt from a few images."""
