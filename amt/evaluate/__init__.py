"""Evaluation: ``python -m amt.evaluate CHECKPOINT``."""
