"""What every quantizer shares: base, activations, where they stand."""
