"""Training in plain PyTorch; ``pipeline.train`` is the way in."""
