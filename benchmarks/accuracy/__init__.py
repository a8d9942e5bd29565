"""How near does the formula come, without a compile, to what XLA compiles? See ``python -m benchmarks.accuracy --help``."""
