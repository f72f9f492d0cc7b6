"""From layers and codebooks to integers: scales, requantization, layouts."""
