"""Independent recomputation of plans."""
