"""ModelSpec definitions of our own, one file per family; ``pipeline.networks.registry`` names them."""
