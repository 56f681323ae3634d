"""Terms of the object: where it is from the wrist, how it is rotated, and which class it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.hand.batch import Inputs, Targets
from amt.hand.camera import MIN_DEPTH
from amt.hand.objects import SYMMETRIC_CLASSES
from amt.hand.rotations import axis_angle_to_matrix, geodesic_distance, six_d_to_matrix
from amt.kernels.constant import constant
from amt.model.camera import CropCamera
from amt.model.draws import drawn_like
from amt.model.outline import DIRECTIONS, LEAST_LOG_SCALE, corners, reach_of
from amt.model.outputs import Prediction
from amt.model.pose_search import pose_scores, thinned
from amt.model.scene import Scene, posed_points
from amt.train.losses.hand import Terms
from amt.train.losses.masks import mean_where
from amt.train.losses.units import ANGLE_UNIT, LENGTH_UNIT

CHAMFER_POINTS = 128  # object points in the chamfer distance, which costs their square
# Deviations of the pose search's wanted distribution: rad, half crops, log of the depth
SEARCH_ANGLE, SEARCH_SHIFT, SEARCH_DEPTH = 0.2, 0.04, 0.05
# Poses that the evidence is trained on: how many, and how far their places deviate, in the units above for shift and depth. Those
# of the first two kinds deviate by NEAR_ANGLE (rad) along each axis from the true rotation, those of the others have any.
POSES = ((48, 1.0, 1.0), (48, 6.0, 2.0), (64, 0.5, 0.5), (64, 6.0, 2.0))
NEAR_ANGLE = 0.5
HARD = 96  # and how many of those that the search liked best
LEAST = 1e4  # minus the log of a probability that is none


def object_terms(p: Prediction, t: Targets, inputs: Inputs) -> Terms:
    """Terms of the object's pose, outline and class."""
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

    def outline() -> Tensor:
        if p.outline is None:
            return mean_where(t.object_translation[:, 0] * 0, t.object_valid)
        camera = CropCamera.of(inputs.intrinsics, inputs.image.shape[-1])
        true = t.object_rotation[:, None], t.object_translation[:, None]
        reach = reach_of(corners(inputs.object_points), *true, camera)
        error = p.outline.unlikeliness(reach)[:, 0] / DIRECTIONS
        return mean_where(error + (p.outline.scale.log() - LEAST_LOG_SCALE).mean(dim=1), t.object_valid)

    def search() -> Tensor:
        if p.evidence is None:
            return mean_where(t.object_translation[:, 0] * 0, t.object_valid)
        known = (inputs.object_look != 0).flatten(1).any(dim=1)
        return mean_where(_search_error(p, t, inputs), t.object_valid & known)

    def kind() -> Tensor:
        errors = F.cross_entropy(p.object_class, inputs.object_class, reduction="none")
        return mean_where(errors, inputs.object_class > 0)

    return {
        "object_translation": translation,
        "object_points": chamfer,
        "object_rotation": matched,
        "object_pose": pose,
        "outline": outline,
        "pose_search": search,
        "object_class": kind,
    }


def symmetric_objects(t: Targets, inputs: Inputs) -> Tensor:
    """bool [B]: what the data say, else what is known of YCB's classes; an unknown object may be symmetric."""
    if t.object_symmetric is not None:
        return t.object_symmetric
    classes = inputs.object_class
    return sum(classes == known for known in (0, *SYMMETRIC_CLASSES)) > 0


def _search_error(p: Prediction, t: Targets, inputs: Inputs) -> Tensor:
    """[B]: how far scores of poses are from what they should be, a cross-entropy.

    The poses: the true one, :data:`POSES`, and of an object without symmetries the best that the search found, which are wrong
    for as long as the evidence is. The wanted weights fall off around the true pose as a normal distribution does.
    """
    camera = CropCamera.of(inputs.intrinsics, inputs.image.shape[-1])
    unit = torch.stack((camera.size / 2 / camera.reference_focal() * SEARCH_SHIFT,) * 2, dim=-1)[:, None]
    rotations, translations = _drawn_poses(t, unit)
    found = p.poses.best(HARD)
    rotations, translations = (torch.cat(both, dim=1) for both in zip((rotations, translations), found))
    points, normals = thinned(inputs.object_points), thinned(inputs.object_look)[..., :3]
    score = pose_scores(p.evidence, points, normals, rotations, translations, camera)
    left_out = symmetric_objects(t, inputs)[:, None] & (
        torch.arange(score.shape[1], device=score.device) >= score.shape[1] - HARD
    )
    score = torch.where(left_out, -LEAST, score)
    log_depth, across = _depth_and_direction(translations)
    true_depth, true_across = _depth_and_direction(t.object_translation[:, None])
    away = (geodesic_distance(rotations, t.object_rotation[:, None]) / SEARCH_ANGLE).square()
    away = (
        away
        + ((log_depth - true_depth) / SEARCH_DEPTH).square()[..., 0]
        + ((across - true_across) / unit).square().sum(-1)
    )
    away = torch.where(left_out, LEAST, away)
    return -(torch.softmax(-away / 2, dim=1) * torch.log_softmax(score, dim=1)).sum(dim=1)


def _drawn_poses(t: Targets, unit: Tensor) -> tuple[Tensor, Tensor]:
    """The true pose and :data:`POSES`: [B, N, 3, 3] and [B, N, 3] (m); ``unit`` [B, 1, 2] is SEARCH_SHIFT as x/z and y/z."""
    rotation, translation = t.object_rotation[:, None], t.object_translation[:, None]
    batch, near = len(translation), POSES[0][0] + POSES[1][0]
    turn = axis_angle_to_matrix(drawn_like(translation.new_empty(batch, near, 3)) * NEAR_ANGLE) @ rotation
    anywhere = six_d_to_matrix(drawn_like(translation.new_empty(batch, POSES[2][0] + POSES[3][0], 6)))
    rotations = torch.cat((rotation, turn, anywhere), dim=1)
    spread = [constant((shift, shift, depth), translation).expand(count, 3) for count, shift, depth in POSES]
    spread = torch.cat((translation.new_zeros(1, 3), *spread))
    place = drawn_like(translation.new_empty(batch, rotations.shape[1], 3)) * spread
    log_depth, across = _depth_and_direction(translation)
    across, depth = across + place[..., :2] * unit, (log_depth + place[..., 2:] * SEARCH_DEPTH).exp()
    return rotations, torch.cat((across, torch.ones_like(depth)), dim=-1) * depth


def _depth_and_direction(translation: Tensor) -> tuple[Tensor, Tensor]:
    """The log of the depth [..., 1] (of metres) and x/z, y/z [..., 2] of points [..., 3] (m)."""
    depth = translation[..., 2:].clamp(min=MIN_DEPTH)
    return depth.log(), translation[..., :2] / depth


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
