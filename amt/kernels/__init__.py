"""The ops: tensors in, tensors out. Each has one definition, ``<op>/reference.py``, that every other implementation is held to.

    refine            pixel-aligned refinement: project, sample all maps, offset MLP, halving update, S steps
    hand_frames       the 22 local coordinate frames of a hand from its 21 joints
    frame_pointnet    points through every frame and a two-layer PointNet with a max, never written out
    attention         softmax attention in bf16 or FP8
    block             a transformer block's small ops, fused: add_norm, linear_gelu, gelu_quantize
    pose_scores       how well poses of an object fit what an image shows at its points
    normalize         bytes of pictures to floats with a mean and a scale a channel

``amt.kernels.use("reference")`` forces an implementation; ``python -m amt.kernels`` prints what runs here and why.
"""

import sys

# `python -m amt.kernels` imports this package first, and a wrong word should not wait for PyTorch. Python names a program "-m"
# until it has found the module.
if not (sys.argv[:1] == ["-m"] and "amt.kernels" in sys.orig_argv):
    from amt.kernels import block  # noqa: F401 (its ops register themselves)
    from amt.kernels._backend import BackendUnavailable, use
    from amt.kernels.attention import attention
    from amt.kernels.frame_pointnet import frame_pointnet
    from amt.kernels.hand_frames import hand_frames
    from amt.kernels.normalize import normalize
    from amt.kernels.pose_scores import pose_scores
    from amt.kernels.refine import RefineWeights, refine

__all__ = [
    "BackendUnavailable",
    "RefineWeights",
    "attention",
    "frame_pointnet",
    "hand_frames",
    "normalize",
    "pose_scores",
    "refine",
    "use",
]
