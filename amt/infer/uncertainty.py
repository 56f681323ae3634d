"""How far off each joint may be, in millimetres, from what the network says of itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amt.hand.skeleton import NUM_JOINTS
from amt.model.outputs import Prediction


def joint_sigmas(prediction: Prediction, intrinsics: Tensor, size: int) -> Tensor:
    """float32 [B, 21], mm: a standard deviation for each joint.

    A model with ``model.joint_scale=true`` and a weight on ``train.loss.variance`` has learned the scale b of a Laplace
    distribution along each axis: sigma = sqrt(2) b. Any other model's sigma is the width of the keypoint map, as long as it is at
    the joint's depth: sqrt((var x + var y) / 2) px, times depth over focal length. That one knows nothing of errors in depth and
    is not calibrated; it tells sure joints from unsure ones.

    Args:
        intrinsics: [B, 3, 3], px: K of the crops.
        size: side of a crop, px.
    """
    if prediction.joint_scale is not None:
        return 1000 * math.sqrt(2) * prediction.joint_scale
    weights = prediction.keypoints.log_maps[:, :NUM_JOINTS].exp()  # [B, 21, H, W]
    variance = 0.0
    for axis in (-1, -2):
        along = weights.sum(-2 if axis == -1 else -1)
        at = (torch.arange(along.shape[-1]) + 0.5) * (size / along.shape[-1])  # px of the crop
        mean = (along * at).sum(-1, keepdim=True)
        variance = variance + (along * (at - mean) ** 2).sum(-1)
    focal = (intrinsics[:, 0, 0] * intrinsics[:, 1, 1]).sqrt()
    return 1000 * (variance / 2).sqrt() * prediction.joints[..., 2].clamp(min=0) / focal[:, None]
