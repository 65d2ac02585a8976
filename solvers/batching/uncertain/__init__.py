"""Batches of requests whose lengths are uncertain: chance constraints, expected cost, caps, sensitivity."""
