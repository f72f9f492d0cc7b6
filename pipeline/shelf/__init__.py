"""Studies as they lie in their folders: to look at, compare, stop, copy, make smaller and remove."""
