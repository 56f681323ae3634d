"""Terms of the object: where it is from the wrist, how it is rotated, and which class it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.hand.batch import Inputs, Targets
from amt.hand.camera import MIN_DEPTH
from amt.hand.objects import SYMMETRIC_CLASSES
from amt.hand.rotations import axis_angle_to_matrix, geodesic_distance, six_d_to_matrix
from amt.model.camera import CropCamera
from amt.model.draws import drawn_like
from amt.model.outputs import Prediction
from amt.model.pose_search import Evidence, pose_scores, thinned
from amt.model.scene import Scene, posed_points
from amt.train.losses.hand import Terms
from amt.train.losses.masks import mean_where
from amt.train.losses.units import ANGLE_UNIT, LENGTH_UNIT

CHAMFER_POINTS = 128  # object points in the chamfer distance, which costs their square
# Deviations of the pose search's wanted distribution: rad, half crops, log of the depth
SEARCH_ANGLE, SEARCH_SHIFT, SEARCH_DEPTH = 0.2, 0.04, 0.05
NEAR, NEAR_ANGLE, ANYWHERE = 48, 0.5, 128  # poses that the evidence is trained on: how many, rad


def object_terms(p: Prediction, t: Targets, inputs: Inputs) -> Terms:
    """``object_translation``, ``object_points``, ``object_rotation``, ``object_pose``, ``pose_search``, ``object_class``."""
    both = t.hand_valid & t.object_valid
    points = inputs.object_points[:, :: max(1, inputs.object_points.shape[1] // CHAMFER_POINTS)]
    wanted = points @ t.object_rotation.mT
    rotations = (p.coarse.object_rotation, p.decoded.object_rotation)

    def translation() -> Tensor:
        wanted_offset = t.object_translation - t.joints[:, 0]
        final = p.object_translation - p.joints[:, 0] - wanted_offset
        coarse = p.coarse.object_translation - p.coarse.joints[:, 0] - wanted_offset
        return mean_where((final.abs() + coarse.abs()) / (2 * LENGTH_UNIT), both)

    def chamfer() -> Tensor:
        total = sum(_chamfer(points, rotation, wanted) for rotation in rotations)
        return mean_where(total / (4 * LENGTH_UNIT), t.object_valid)

    def matched() -> Tensor:
        total = sum((points @ rotation.mT - wanted).abs() for rotation in rotations)
        return mean_where(total / (2 * LENGTH_UNIT), t.object_valid)

    def pose() -> Tensor:
        symmetric = symmetric_objects(t, inputs)
        coarse = _pose_error(p.coarse, p.coarse.joints, t, points, symmetric)
        return mean_where((coarse + _pose_error(p.decoded, p.joints, t, points, symmetric)) / 2, both)

    def search() -> Tensor:
        if p.evidence is None:
            return mean_where(t.object_translation[:, 0] * 0, t.object_valid)
        known = (inputs.object_look != 0).flatten(1).any(dim=1)
        return mean_where(_search_error(p.evidence, t, inputs), t.object_valid & known)

    def kind() -> Tensor:
        errors = F.cross_entropy(p.object_class, inputs.object_class, reduction="none")
        return mean_where(errors, inputs.object_class > 0)

    return {
        "object_translation": translation,
        "object_points": chamfer,
        "object_rotation": matched,
        "object_pose": pose,
        "pose_search": search,
        "object_class": kind,
    }


def symmetric_objects(t: Targets, inputs: Inputs) -> Tensor:
    """bool [B]: what the data say, else what is known of YCB's classes; an unknown object may be symmetric."""
    if t.object_symmetric is not None:
        return t.object_symmetric
    classes = inputs.object_class
    return sum(classes == known for known in (0, *SYMMETRIC_CLASSES)) > 0


def _search_error(evidence: Evidence, t: Targets, inputs: Inputs) -> Tensor:
    """[B]: how far scores of poses around the true one are from what they should be, a cross-entropy.

    The poses: some near the true one, some with any rotation and nearly the true place. The wanted weights fall off around the
    true pose as a normal distribution does.
    """
    rotation, translation = t.object_rotation[:, None], t.object_translation[:, None]
    near = drawn_like(translation.new_empty(len(translation), NEAR, 6))
    turn = axis_angle_to_matrix(near[..., :3] * NEAR_ANGLE) @ rotation
    anywhere = six_d_to_matrix(drawn_like(translation.new_empty(len(translation), ANYWHERE, 6)))
    rotations = torch.cat((rotation, turn, anywhere), dim=1)
    place = drawn_like(translation.new_empty(len(translation), rotations.shape[1], 3))
    place = torch.cat((torch.zeros_like(place[:, :1]), place[:, 1 : 1 + NEAR], 0.5 * place[:, 1 + NEAR :]), dim=1)
    camera = CropCamera.of(inputs.intrinsics, inputs.image.shape[-1])
    shift = place[..., :2] * SEARCH_SHIFT * camera.size / 2 / camera.reference_focal()[:, None, None]
    across = translation[..., :2] / translation[..., 2:].clamp(min=MIN_DEPTH) + shift
    depth = translation[..., 2:] * (place[..., 2:] * SEARCH_DEPTH).exp()
    translations = torch.cat((across, torch.ones_like(depth)), dim=-1) * depth
    points, normals = thinned(inputs.object_points), thinned(inputs.object_look)[..., :3]
    score = pose_scores(evidence, points, normals, rotations, translations, camera)
    away = (geodesic_distance(rotations, rotation) / SEARCH_ANGLE) ** 2 + place.square().sum(dim=-1)
    return -(torch.softmax(-away / 2, dim=1) * torch.log_softmax(score, dim=1)).sum(dim=1)


def _pose_error(scene: Scene, joints: Tensor, t: Targets, points: Tensor, symmetric: Tensor) -> Tensor:
    """[B]: how far the object's pose from the wrist is from the true one.

    The geodesic distance on SE(3) under the metric |angle / 3 rad|^2 + |offset / 0.1 m|^2 (left-invariant; Park, "Distance
    metrics on the rigid-body motions", 1995); for symmetric objects ADD-S, the mean distance of the posed points [B, N, 3] to
    the nearest true one.
    """
    offset, wanted = scene.object_translation - joints[:, 0], t.object_translation - t.joints[:, 0]
    angle = geodesic_distance(scene.object_rotation, t.object_rotation) / ANGLE_UNIT
    manifold = torch.linalg.vector_norm(torch.cat((angle[:, None], (offset - wanted) / LENGTH_UNIT), dim=1), dim=1)
    posed, true = posed_points(points, scene.object_rotation, offset), posed_points(points, t.object_rotation, wanted)
    adds = (posed - _taken(true, _nearest(posed, true)[0])).norm(dim=-1).mean(dim=1)
    return torch.where(symmetric, adds / LENGTH_UNIT, manifold)


def _chamfer(points: Tensor, rotation: Tensor, wanted: Tensor) -> Tensor:
    """Mean distance of rotated points to the nearest wanted one, and the other way, added: [B] of [B, N, 3] and [B, M, 3], m.

    Points are taken before they are rotated, so that no gradient is scattered: the same bits on every run.
    """
    rotated = points @ rotation.mT
    to_wanted, to_rotated = _nearest(rotated, wanted)
    one = (rotated - _taken(wanted, to_wanted)).norm(dim=-1).mean(dim=1)
    return one + (_taken(points, to_rotated) @ rotation.mT - wanted).norm(dim=-1).mean(dim=1)


@torch.no_grad()
def _nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """For each of a [B, N, 3] the index of the nearest of b [B, M, 3], and the other way: int64 [B, N] and [B, M]."""
    distances = torch.cdist(a, b)
    return distances.argmin(dim=2), distances.argmin(dim=1)


def _taken(points: Tensor, indices: Tensor) -> Tensor:
    return points.gather(1, indices[..., None].expand(-1, -1, 3))
