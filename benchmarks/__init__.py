"""Measurements of jaxmem: commands that can be interrupted and run again. Results lie in ``benchmarks/results``."""
