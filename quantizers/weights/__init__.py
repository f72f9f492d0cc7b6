"""The other quantizers of weights, one file each."""
