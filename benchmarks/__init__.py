"""Benchmarks: one harness, one file an op, one JSON file a machine in ``results/``, one report into the README."""
