"""From a quantized network to an ARM program and its profile."""
