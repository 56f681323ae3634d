"""AMT: hand and object pose in metric space from one RGB image.

``amt.load(folder)`` returns a predictor; ``amt.kernels`` holds the fused ops, usable alone in any other model.
"""

__version__ = "0.1.0"


def load(checkpoint, device=None, hand=None, locator="model", mediapipe=None, models=None):
    """The predictor of a checkpoint folder (model.safetensors and config.json); see :func:`amt.infer.load`.

    Args:
        checkpoint: the folder; "amt-tiny", which comes with the package; or a name on the Hugging Face Hub, "owner/model".
        device: "cpu", "cuda" or "cuda:N"; None or "auto" takes the GPU where there is one.
        hand: path of MANO_RIGHT.pkl on this machine, for a model that was trained with MANO; None takes the path of training.

        locator: what finds hands where no boxes are given: "model" (the checkpoint's own or the one that
            ships), "mediapipe" or "window".
        mediapipe: the wheel of mediapipe 0.10.21, or a folder with its .tflite files.
        models: folder of object models, such as a set's ``models``: whose look YCB names and class ids have. Without it the size
            of such an object is known and its colours are not, so that its rotation is a guess.

    Raises:
        amt.errors.UserError: an argument is wrong, or the checkpoint, the device or a package is missing; one line with the
            remedy.
    """
    from amt.errors import UserError

    try:
        import safetensors  # noqa: F401  (only used once the model is built)

        from amt.infer.predictor import load

        chosen = {} if hand is None else {"hand": str(hand)}
        return load(checkpoint, device=device, locator=locator, mediapipe=mediapipe, models=models, **chosen)
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "amt":
            raise
        raise UserError(f"amt.load: the package {error.name} is not installed; pip install -e . brings it") from error
