"""AMT: hand and object pose in metric space from one RGB image.

``amt.load(folder)`` returns a predictor; ``amt.kernels`` holds the fused ops, usable alone in any other model.
"""

__version__ = "0.1.0"


def load(checkpoint, device=None):
    """The predictor of a checkpoint folder (model.safetensors and config.json); see :func:`amt.infer.load`."""
    from amt.infer.predictor import load

    return load(checkpoint, device=device)
