"""Hardware: what there is."""
