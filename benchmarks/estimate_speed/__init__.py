"""How fast the formula alone is; see `benchmarks.estimate_speed.__main__`."""
