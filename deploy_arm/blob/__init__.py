"""Weights and tables of a network as one file: written, read, packed, its memory planned."""
