"""Models as graphs: traced, without writes in place, with their layers recognised."""
