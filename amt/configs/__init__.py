"""Hydra's groups. The schema (every key, its type and its default) is in the dataclasses; YAML only overrides them."""
