"""From a quantized network to a graph of integer operations."""
