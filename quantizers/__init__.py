"""How weights and activations become few values."""
