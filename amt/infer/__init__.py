"""Inference: ``load(folder)`` gives a predictor, ``python -m amt.infer`` draws and exports what it sees."""

from importlib import import_module

_HOMES = {
    "InputError": "amt.infer.checks",
    "Predictor": "amt.infer.predictor",
    "Request": "amt.infer.predictor",
    "load": "amt.infer.predictor",
    "HandObject": "amt.draw.hand_object",
    "Result": "amt.infer.result",
    "errors": "amt.draw.hand_object",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    """Imports a public name at its first use: a wrong command line is told before PyTorch loads."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
