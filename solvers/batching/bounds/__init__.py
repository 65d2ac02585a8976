"""Lower bounds on batching objectives, each on the valid side for every plan."""
