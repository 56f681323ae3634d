"""The network: one image with its camera in, hand, object and contact in metric camera space out.

``AMT(ModelConfig(size="tiny"))(inputs)`` returns a :class:`Prediction`. ``amt.py`` is the whole data flow in one file.
"""

from importlib import import_module

_HOMES = {
    "AMT": "amt",
    "BackboneConfig": "config",
    "CheckpointError": "checkpoint",
    "ConfigError": "config",
    "ModelConfig": "config",
    "Prediction": "outputs",
    "load_checkpoint": "loading",
    "save_checkpoint": "checkpoint",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Imports a public name at its first use: ``amt.model.config`` is read by programs that have not loaded PyTorch yet."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
