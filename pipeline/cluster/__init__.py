"""Trials on a Ray cluster and the pool of devices."""
