"""The Gaussian mixture of a layer's weights."""
