"""Errors of an object's pose.

Symmetries are motions of the object's own frame after which it looks the same, the identity among them: rotations [S, 3, 3],
or [S, 3, 4] with translations (m).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from amt.hand.objects import box_corners
from amt.metrics.joints import MM_PER_M

CHUNK = 64  # samples whose point distances are held at once
CONTINUOUS_STEP = (
    0.01  # of the object's diameter: how far a point moves between two rotations of a continuous symmetry (BOP)
)


def add_mm(predicted: Tensor, true: Tensor) -> Tensor:
    """ADD, [B]: mean distance of corresponding posed points [B, P, 3] (m)."""
    return (predicted.double() - true.double()).norm(dim=-1).mean(dim=-1) * MM_PER_M


def adds_mm(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Both figures that are called ADD-S, [B] each, of posed object points [B, P, 3] (m).

    The first is the mean over predicted points of the distance to the nearest true one (papers on hands with objects); the
    second is the mean over true points of the distance to the nearest predicted one (BOP's ``adi``).
    """
    first, second = [], []
    for a, b in zip(predicted.double().split(CHUNK), true.double().split(CHUNK)):
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        first.append(distance.amin(dim=2).mean(dim=1))
        second.append(distance.amin(dim=1).mean(dim=1))
    return torch.cat(first) * MM_PER_M, torch.cat(second) * MM_PER_M


def oce_mm(predicted: Tensor, true: Tensor) -> Tensor:
    """Object centre error, [B]: distance of the translations [B, 3] (m)."""
    return (predicted.double() - true.double()).norm(dim=-1) * MM_PER_M


def mce_mm(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean corner error, [B]: of the 8 corners of the boxes along the camera's axes around posed points [B, P, 3] (m)."""
    return (box_corners(predicted.double()) - box_corners(true.double())).norm(dim=-1).mean(dim=-1) * MM_PER_M


def rotation_error_deg(predicted: Tensor, true: Tensor, symmetries: Tensor | None = None) -> Tensor:
    """The smallest angle, [B], degrees, between rotations [B, 3, 3] (object to camera) over the object's symmetries.

    From the relative rotation's skew part (2 sin) and trace (1 + 2 cos): exact near 0 and near 180 degrees as well.
    """
    predicted, true = predicted.double(), true.double()
    relative = predicted.mT[:, None] @ (true[:, None] @ _symmetries(symmetries)[..., :3])  # [B, S, 3, 3]
    skew = relative - relative.mT
    twice_sine = torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), dim=-1).norm(dim=-1)
    twice_cosine = relative.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1
    return torch.rad2deg(torch.atan2(twice_sine, twice_cosine)).amin(dim=1)


def mssd_mm(
    rotation: Tensor,
    translation: Tensor,
    true_rotation: Tensor,
    true_translation: Tensor,
    points: Tensor,
    symmetries=None,
) -> Tensor:
    """Maximum symmetry-aware surface distance (BOP), [B].

    Args:
        rotation, true_rotation: [B, 3, 3]; translation, true_translation: [B, 3], m.
        points: [P, 3], m, or [B, P, 3]: the model's vertices in its own frame.
        symmetries: [S, 3, 3] or [S, 3, 4]; None: the identity alone.
    """
    posed, turned = _posed(rotation, translation, true_rotation, true_translation, points, symmetries)
    return (posed - turned).norm(dim=-1).amax(dim=-1).amin(dim=1) * MM_PER_M


def mspd_px(
    rotation: Tensor,
    translation: Tensor,
    true_rotation: Tensor,
    true_translation: Tensor,
    points: Tensor,
    intrinsics: Tensor,
    symmetries=None,
) -> Tensor:
    """Maximum symmetry-aware projection distance (BOP), [B], px. As :func:`mssd_mm`; ``intrinsics`` [B, 3, 3] or [3, 3], px."""
    posed, turned = _posed(rotation, translation, true_rotation, true_translation, points, symmetries)
    k = intrinsics.double().expand(len(posed), 3, 3)[:, None]

    def pixels(x: Tensor) -> Tensor:
        x = x @ k.mT
        return x[..., :2] / x[..., 2:]

    return (pixels(posed) - pixels(turned)).norm(dim=-1).amax(dim=-1).amin(dim=1)


def vsd(
    predicted: Tensor, true: Tensor, scene: Tensor, diameter: float, delta: float = 0.015, taus: Iterable[float] = ()
) -> Tensor:
    """Visible surface discrepancy (BOP 2019), [T], 0-1, of pictures of distances from the camera's centre; 0: nothing there.

    A pixel of a model is visible where the scene is not more than ``delta`` in front of it, or where the scene was not
    measured. The cost of a pixel that both poses show is 1 where they differ by ``tau`` diameters or more.

    Args:
        predicted, true: [H, W], m: the model alone at each pose; scene: [H, W], m: as measured.
        diameter: m, of the model; delta: m; taus: shares of the diameter, 0.05 to 0.5 where none is given.
    """
    taus = tuple(taus) or tuple(0.05 * k for k in range(1, 11))
    predicted, true, scene = predicted.double(), true.double(), scene.double()
    seen_true = (true > 0) & ((true - scene <= delta) | (scene == 0))
    seen = (predicted > 0) & ((predicted - scene <= delta) | (scene == 0) | seen_true)
    both, either = int((seen & seen_true).sum()), int((seen | seen_true).sum())
    if not either:
        return torch.ones(len(taus), dtype=torch.float64)
    gap = (predicted - true).abs()[seen & seen_true] / diameter
    costs = torch.stack([(gap >= tau).sum() for tau in taus]).double()
    return (costs + either - both) / either


def symmetry_rotations(
    symmetry: Iterable[tuple[str, float]], steps: int = math.ceil(math.pi / CONTINUOUS_STEP)
) -> Tensor:
    """Rotations [S, 3, 3] (float64) of a symmetry such as ``(("z", 180.0),)``, as an object's card gives it.

    Args:
        symmetry: axis and degrees; 0 degrees: any rotation about the axis, in ``steps`` of equal angle (BOP's number).
    """
    found = torch.eye(3, dtype=torch.float64)[None]
    for axis, degrees in symmetry:
        count = steps if degrees == 0 else max(1, round(360 / degrees))
        angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
        first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        turns = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
        turns[:, first, first] = turns[:, second, second] = angles.cos()
        turns[:, second, first], turns[:, first, second] = angles.sin(), -angles.sin()
        found = (found[:, None] @ turns).flatten(0, 1)
    return found


def _symmetries(symmetries: Tensor | None) -> Tensor:
    """float64 [S, 3, 4]."""
    if symmetries is None:
        return torch.eye(3, 4, dtype=torch.float64)[None]
    return torch.nn.functional.pad(symmetries.double(), (0, 4 - symmetries.shape[-1]))


def _posed(rotation, translation, true_rotation, true_translation, points, symmetries) -> tuple[Tensor, Tensor]:
    """Points at the predicted pose [B, 1, P, 3] and at the true one after each symmetry [B, S, P, 3]; float64."""
    rotation, translation, true_rotation, true_translation, points = (
        x.double() for x in (rotation, translation, true_rotation, true_translation, points)
    )
    points = points.expand(len(rotation), *points.shape[-2:])
    posed = points @ rotation.mT + translation[:, None]
    motions = _symmetries(symmetries)
    alike = points[:, None] @ motions[:, :, :3].mT + motions[:, None, :, 3]  # [B, S, P, 3]
    return posed[:, None], alike @ true_rotation[:, None].mT + true_translation[:, None, None]
