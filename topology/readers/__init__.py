"""Readers of topology formats."""
