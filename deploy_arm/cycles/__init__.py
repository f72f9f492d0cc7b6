"""Cycles of executed instructions on a core: the pipeline model."""
