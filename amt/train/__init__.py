"""Training: ``python -m amt.train``."""
