"""Models, workloads and costs: what it costs."""
