"""What is wrong with a model: dead units, gradients, attention, constant predictions, the first value that is not finite.

::

    from amt.debug import ModelDebugger

    debugger = ModelDebugger(model)
    print(debugger.analyze_model(batch))  # activations, parameters, gradient flow, attention
    print(debugger.debug_prediction_diversity(loader))  # does it answer with different hands?
    print(debugger.find_nonfinite(batch))  # None, or the first module and op

``python -m amt.debug CHECKPOINT data.root=ROOT`` writes the same as one page. Thresholds: docs/debugging.md.
"""

from importlib import import_module

__all__ = ["ModelDebugger"]


def __getattr__(name: str):
    """Imports a public name at its first use: a wrong command line is told before PyTorch loads."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.debugger"), name)
