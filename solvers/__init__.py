"""How problems are answered."""
