"""Detectors: images with boxes, from a network's raw output to detections, and how good those are."""
