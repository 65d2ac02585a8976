"""How families of models are read from a config."""
