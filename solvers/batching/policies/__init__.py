"""Published batching policies, one a module, each with its source: baselines to compare with."""
