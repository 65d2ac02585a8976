"""Placement among many unlike devices: a bound over all of them, plans from a few, variables fixed by reduced cost."""
