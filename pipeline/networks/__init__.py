"""Network definitions of our own, one file per family; ``pipeline.models`` names them."""
