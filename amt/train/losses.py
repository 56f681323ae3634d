"""The training loss. Lengths are compared in float32 metres and divided by 0.1 m: every term is about 1 at the start."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.hand.autocast import no_autocast
from amt.hand.batch import Batch, Inputs, Targets
from amt.hand.camera import project
from amt.hand.objects import box_corners
from amt.hand.rotations import axis_angle_to_matrix
from amt.hand.skeleton import NUM_JOINTS
from amt.model.keypoints import NUM_KEYPOINTS
from amt.model.outputs import Prediction
from amt.model.scene import posed_points
from amt.train.config import LossConfig

LENGTH_UNIT = 0.1  # m
HAND_BALANCE, OBJECT_BALANCE = 0.6, 0.9  # see _balanced_bce
FARTHEST_KEYPOINT = 1.5  # half crops from the centre; keypoints farther out have no loss, the image does not show them
CHAMFER_POINTS = 128  # object points in the chamfer distance, which costs their square


class Loss(NamedTuple):
    """The weighted sum, and each unweighted term detached, by name."""

    total: Tensor
    terms: dict[str, Tensor]


def compute_loss(prediction: Prediction, batch: Batch, weights: LossConfig) -> Loss:
    """The training loss of one batch.

    Args:
        prediction: the model's answer to ``batch.inputs``, float32.
        batch: ``batch.targets`` in float32; samples whose flags are False do not count.
        weights: the terms' weights.

    Raises:
        TypeError: labels or coordinates in a 16-bit type, whose spacing at half a metre is 4 mm.
    """
    targets = batch.targets
    check_float32(prediction, targets)
    with no_autocast(targets.joints.device.type):
        terms = {
            **_keypoint_terms(prediction, targets, batch.inputs),
            **_hand_terms(prediction, targets, batch.inputs.intrinsics, batch.inputs.image.shape[-1]),
            **_object_terms(prediction, targets, batch.inputs.object_points),
            "contact": _contact_term(prediction, targets),
            "object_class": _class_term(prediction, batch.inputs.object_class),
            "diversity": _diversity_term(prediction, targets),
            "kl": (prediction.hand_latent.kl() + prediction.object_latent.kl()).mean(),
        }
        total = sum(getattr(weights, name) * value for name, value in terms.items())
    return Loss(total, {name: value.detach() for name, value in terms.items()})


def check_float32(prediction: Prediction, targets: Targets) -> None:
    for owner, value in (("prediction", prediction), ("targets", targets)):
        for name, tensor in value.named_tensors():
            if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
                raise TypeError(f"{owner}.{name} must be float32, got {tensor.dtype}: it cannot hold millimetres")


def mean_where(value: Tensor, valid: Tensor) -> Tensor:
    """The mean over the samples of ``valid`` [B] of ``value`` [B, ...]; 0 where there is none."""
    per_sample = value.flatten(1).mean(dim=1) if value.dim() > 1 else value
    return torch.where(valid, per_sample, 0.0).sum() / valid.sum().clamp(min=1)


def _keypoint_terms(p: Prediction, t: Targets, inputs: Inputs) -> dict[str, Tensor]:
    size = inputs.image.shape[-1]
    corners = posed_points(box_corners(inputs.object_points), t.object_rotation, t.object_translation)
    points = torch.cat((t.joints, t.object_translation[:, None], corners), dim=1)
    wanted = (project(points, inputs.intrinsics) - (size - 1) / 2) / (size / 2)
    place = F.smooth_l1_loss(p.keypoints.position, wanted, beta=0.05, reduction="none").mean(dim=-1)
    depth = (p.keypoints.depth - (points[..., 2] - points[:, :1, 2]) / LENGTH_UNIT).abs()
    both = (t.hand_valid & t.object_valid)[:, None]
    valid = torch.cat(
        (t.hand_valid[:, None].expand(-1, NUM_JOINTS), both.expand(-1, NUM_KEYPOINTS - NUM_JOINTS)), dim=1
    )
    valid = valid & (wanted.abs() < FARTHEST_KEYPOINT).all(dim=-1)
    inside = valid & (wanted.abs() < 1).all(dim=-1)
    return {
        "keypoints": mean_where((place + 0.5 * depth).flatten()[:, None], valid.flatten()),
        "keypoint_maps": mean_where(-_bilinear(p.keypoints.log_maps, wanted).flatten()[:, None], inside.flatten()),
    }


def _bilinear(maps: Tensor, position: Tensor) -> Tensor:
    """Maps [B, J, H, W] read at positions [B, J, 2] in -1..1, borders repeated: [B, J]."""
    samples = F.grid_sample(
        maps.flatten(0, 1)[:, None],
        position.nan_to_num().flatten(0, 1)[:, None, None],  # NaN would be an index
        align_corners=False,
        padding_mode="border",
    )
    return samples.view(maps.shape[:2])


def _hand_terms(p: Prediction, t: Targets, intrinsics: Tensor, size: int) -> dict[str, Tensor]:
    stages = torch.cat((p.coarse.joints[:, None], p.unrefined.joints[:, None], p.steps), dim=1)
    relative = stages - stages[:, :, :1]
    wanted = (t.joints - t.joints[:, :1])[:, None]
    meshes = torch.stack([hand.vertices - hand.joints[:, :1] for hand in (p.coarse, p.unrefined)], dim=1)
    wanted_mesh = (t.vertices - t.joints[:, :1])[:, None]
    rotations = axis_angle_to_matrix(t.pose.unflatten(-1, (16, 3)))
    half = size / 2
    seen = project(stages, intrinsics[:, None]) / half
    wanted_seen = project(t.joints, intrinsics)[:, None] / half
    depth = stages[:, :, 0, 2] / t.joints[:, None, 0, 2].clamp(min=0.05) - 1
    terms = {
        "joints": (relative - wanted).abs() / LENGTH_UNIT,
        "vertices": (meshes - wanted_mesh).abs() / LENGTH_UNIT,
        "pose": ((p.decoded.pose - rotations).abs() + (p.coarse.pose - rotations).abs()) / 2,
        "betas": ((p.decoded.betas - t.betas).square() + (p.coarse.betas - t.betas).square()) / 2,
        "projection": F.smooth_l1_loss(seen, wanted_seen.expand_as(seen), beta=0.05, reduction="none"),
        "depth": depth.abs(),
    }
    return {name: mean_where(value, t.hand_valid) for name, value in terms.items()}


def _object_terms(p: Prediction, t: Targets, points: Tensor) -> dict[str, Tensor]:
    both = t.hand_valid & t.object_valid
    wanted_offset = t.object_translation - t.joints[:, 0]
    final = p.object_translation - p.joints[:, 0] - wanted_offset
    coarse = p.coarse.object_translation - p.coarse.joints[:, 0] - wanted_offset
    points = points[:, :: max(1, points.shape[1] // CHAMFER_POINTS)]
    wanted = points @ t.object_rotation.mT
    chamfer, matched = 0.0, 0.0
    for rotation in (p.coarse.object_rotation, p.decoded.object_rotation):
        rotated = points @ rotation.mT
        distances = torch.cdist(rotated, wanted)
        chamfer = chamfer + (distances.amin(dim=1).mean(dim=1) + distances.amin(dim=2).mean(dim=1)) / (4 * LENGTH_UNIT)
        matched = matched + (rotated - wanted).abs() / (2 * LENGTH_UNIT)
    return {
        "object_translation": mean_where((final.abs() + coarse.abs()) / (2 * LENGTH_UNIT), both),
        "object_points": mean_where(chamfer, t.object_valid),
        "object_rotation": mean_where(matched, t.object_valid),
    }


def _contact_term(p: Prediction, t: Targets) -> Tensor:
    return (
        _balanced_bce(p.hand_contact, t.hand_contact, t.contact_valid, HAND_BALANCE)
        + _balanced_bce(p.object_contact, t.object_contact, t.contact_valid, OBJECT_BALANCE)
        + _dice(p.hand_contact, t.hand_contact, t.contact_valid)
        + _dice(p.object_contact, t.object_contact, t.contact_valid)
    ) / 2


def _dice(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """1 - F1 with probabilities in place of answers, over the whole batch (Milletari et al., "V-Net", 2016)."""
    answers, labels = torch.sigmoid(logits) * valid[:, None], labels * valid[:, None]
    return 1 - (2 * (answers * labels).sum() + 1) / (answers.sum() + labels.sum() + 1)


def _balanced_bce(logits: Tensor, labels: Tensor, valid: Tensor, balance: float) -> Tensor:
    """Cross-entropy in which a positive weighs more, the rarer positives are: (negatives / positives) ** balance, at most 10.

    A threshold of 0.5 then gives the best F1. For a calibrated probability it would be half the best F1: about 0.25 on the
    hand, lower on the object.
    """
    labels = labels.to(logits.dtype)
    share = (labels.mean(dim=1) * valid).sum() / valid.sum().clamp(min=1)
    weight = ((1 - share) / share.clamp(min=1e-3)).pow(balance).clamp(max=10.0)
    losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight, reduction="none")
    return mean_where(losses, valid)


def _diversity_term(p: Prediction, t: Targets) -> Tensor:
    """How much less wrist-relative joints vary over the batch than the labels do: 0 as much, 1 not at all (a mean pose)."""

    def spread(joints: Tensor) -> Tensor:  # [21, 3], m
        relative = (joints - joints[:, :1]) * t.hand_valid[:, None, None]
        count = t.hand_valid.sum().clamp(min=1)
        mean = relative.sum(dim=0) / count
        square = ((relative - mean).square() * t.hand_valid[:, None, None]).sum(dim=0) / count
        return (square + 1e-8).sqrt()  # 0.1 mm: a root of 0 has no gradient

    return torch.relu(1 - spread(p.joints) / spread(t.joints))[1:].mean()


def _class_term(p: Prediction, object_class: Tensor) -> Tensor:
    known = object_class > 0
    return mean_where(F.cross_entropy(p.object_class, object_class, reduction="none"), known)
