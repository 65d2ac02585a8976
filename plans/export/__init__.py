"""Plans in the words of each runtime."""
