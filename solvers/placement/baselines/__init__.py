"""Rules of thumb, by name."""
