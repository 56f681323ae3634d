"""Terms of the hand: keypoints, joints, mesh, pose, shape, distance, and how far the answers spread."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.hand.batch import Inputs, Targets
from amt.hand.camera import project
from amt.hand.objects import box_corners
from amt.hand.rotations import axis_angle_to_matrix, geodesic_distance
from amt.hand.skeleton import NUM_JOINTS
from amt.model.joint_states import MAX_LOG_SCALE, SCALE_UNIT
from amt.model.outputs import Prediction
from amt.model.scene import posed_points
from amt.train.losses.masks import mean_where
from amt.train.losses.units import ANGLE_UNIT, LENGTH_UNIT
from amt.train.ranks import summed

FARTHEST_KEYPOINT = 1.5  # half crops from the centre; keypoints farther out have no loss, the image does not show them
REFINED_WEIGHT = 1.2  # of each refinement step's joints against the coarse and the decoded ones

Terms = dict[str, Callable[[], Tensor]]  # by name; a term that nobody wants is not computed


def keypoint_terms(p: Prediction, t: Targets, inputs: Inputs) -> Terms:
    """``keypoints``, ``keypoint_maps`` and, where the model has that head, ``visibility``."""
    size = inputs.image.shape[-1]
    corners = posed_points(box_corners(inputs.object_points), t.object_rotation, t.object_translation)
    points = torch.cat((t.joints, t.object_translation[:, None], corners), dim=1)[:, : p.keypoints.depth.shape[1]]
    wanted = (project(points, inputs.intrinsics) - (size - 1) / 2) / (size / 2)
    both = (t.hand_valid & t.object_valid)[:, None]
    of_object = points.shape[1] - NUM_JOINTS
    valid = torch.cat((t.hand_valid[:, None].expand(-1, NUM_JOINTS), both.expand(-1, of_object)), dim=1)
    valid = valid & (wanted.abs() < FARTHEST_KEYPOINT).all(dim=-1)

    def keypoints() -> Tensor:
        place = F.smooth_l1_loss(p.keypoints.position, wanted, beta=0.05, reduction="none").mean(dim=-1)
        depth = (p.keypoints.depth - (points[..., 2] - points[:, :1, 2]) / LENGTH_UNIT).abs()
        return mean_where((place + 0.5 * depth).flatten()[:, None], valid.flatten())

    def keypoint_maps() -> Tensor:
        inside = valid & (wanted.abs() < 1).all(dim=-1)
        return mean_where(-_bilinear(p.keypoints.log_maps, wanted).flatten()[:, None], inside.flatten())

    def visibility() -> Tensor:
        """Cross-entropy over the joints inside the crop; the others nobody can see, whatever hides them."""
        known = torch.zeros_like(t.hand_valid) if t.visibility_valid is None else t.visibility_valid
        labels = torch.zeros_like(p.joint_visible) if t.joint_visible is None else t.joint_visible.to(p.joint_visible)
        inside = (known & t.hand_valid)[:, None] & (wanted[:, :NUM_JOINTS].abs() < 1).all(dim=-1)
        losses = F.binary_cross_entropy_with_logits(p.joint_visible, labels, reduction="none")
        return mean_where(losses.flatten()[:, None], inside.flatten())

    terms = {"keypoints": keypoints, "keypoint_maps": keypoint_maps}
    return terms if p.joint_visible is None else {**terms, "visibility": visibility}


def _bilinear(maps: Tensor, position: Tensor) -> Tensor:
    """Maps [B, J, H, W] read at positions [B, J, 2] in -1..1, borders repeated: [B, J]."""
    samples = F.grid_sample(
        maps.flatten(0, 1)[:, None],
        position.nan_to_num().flatten(0, 1)[:, None, None],  # NaN would be an index
        align_corners=False,
        padding_mode="border",
    )
    return samples.view(maps.shape[:2])


def hand_terms(p: Prediction, t: Targets, inputs: Inputs, joint_weights: Tensor | None, rotation: str) -> Terms:
    """``joints``, ``vertices``, ``pose``, ``betas``, ``projection``, ``depth``, ``diversity``, and ``variance`` with that head.

    Args:
        joint_weights: [21], of the joints' errors; None for all equal.
        rotation: "geodesic" or "matrix", how poses are compared.
    """
    stages = torch.cat((p.coarse.joints[:, None], p.unrefined.joints[:, None], p.steps), dim=1)
    steps = p.steps.shape[1]
    stage_weights = torch.cat((stages.new_ones(stages.shape[1] - steps), stages.new_full((steps,), REFINED_WEIGHT)))
    stage_weights = (stage_weights / stage_weights.mean())[:, None, None]

    def joints() -> Tensor:
        error = ((stages - stages[:, :, :1]) - (t.joints - t.joints[:, :1])[:, None]).abs() * stage_weights
        return (error if joint_weights is None else error * joint_weights[:, None]) / LENGTH_UNIT

    def vertices() -> Tensor:
        meshes = torch.stack([hand.vertices - hand.joints[:, :1] for hand in (p.coarse, p.unrefined)], dim=1)
        return (meshes - (t.vertices - t.joints[:, :1])[:, None]).abs() / LENGTH_UNIT

    def pose() -> Tensor:
        wanted = axis_angle_to_matrix(t.pose.unflatten(-1, (16, 3)))
        return sum(rotation_error(scene.pose, wanted, rotation) for scene in (p.coarse, p.decoded)) / 2

    def projection() -> Tensor:
        half = inputs.image.shape[-1] / 2
        seen = project(stages, inputs.intrinsics[:, None]) / half
        wanted = (project(t.joints, inputs.intrinsics)[:, None] / half).expand_as(seen)
        return F.smooth_l1_loss(seen, wanted, beta=0.05, reduction="none") * stage_weights

    def betas() -> Tensor:
        return ((p.decoded.betas - t.betas).square() + (p.coarse.betas - t.betas).square()) / 2

    def depth() -> Tensor:
        return (stages[:, :, 0, 2] / t.joints[:, None, 0, 2].clamp(min=0.05) - 1).abs()

    def variance() -> Tensor:
        error = (p.joints - t.joints) - (p.joints - t.joints)[:, :1]
        error = torch.cat(((p.joints - t.joints)[:, :1], error[:, 1:]), dim=1).abs()
        return laplace_nll(error, p.joint_scale[..., None])

    terms = [joints, vertices, pose, betas, projection, depth]
    terms += [] if p.joint_scale is None else [variance]
    masked = {term.__name__: lambda term=term: mean_where(term(), t.hand_valid) for term in terms}
    return {**masked, "diversity": lambda: _diversity(p, t)}


def smoothness_term(p: Prediction, t: Targets, window: Tensor | None) -> Tensor:
    """How far the joints' acceleration over three frames of a window is from the labels', per frame squared, over 0.1 m; L1.

    The wrist counts in the camera's frame, the others from the wrist: else the wrist's distance from the camera would drown
    their motion. 0 for single frames.

    Args:
        window: [B], equal for frames of one window, which follow each other; None for single frames.
    """
    if window is None or len(window) < 3:
        return p.joints.new_zeros(())
    error = p.joints - t.joints
    error = torch.cat((error[:, :1], error[:, 1:] - error[:, :1]), dim=1)
    second = error[2:] - 2 * error[1:-1] + error[:-2]  # linear: of the error as of predictions less labels
    valid = t.hand_valid[2:] & t.hand_valid[1:-1] & t.hand_valid[:-2]
    return mean_where(second.abs() / LENGTH_UNIT, valid & (window[2:] == window[:-2]))


def rotation_error(predicted: Tensor, true: Tensor, form: str) -> Tensor:
    """How far rotation matrices [..., 3, 3] are apart, [...] or [..., 3, 3] by ``form``.

    "geodesic": the angle between them over 3 rad; "matrix": their entries' differences. For small angles about any axis both
    have about the same mean.
    """
    return geodesic_distance(predicted, true) / ANGLE_UNIT if form == "geodesic" else (predicted - true).abs()


def laplace_nll(error: Tensor, scale: Tensor) -> Tensor:
    """Laplace's negative log-likelihood of absolute errors at scales b (both m): |e| / b + log b, and a constant: never < 0."""
    return error / scale + (scale / SCALE_UNIT).log() + MAX_LOG_SCALE


def _diversity(p: Prediction, t: Targets) -> Tensor:
    """How much less wrist-relative joints vary over the batch than the labels do: 0 as much, 1 not at all (a mean pose)."""

    def spread(joints: Tensor) -> Tensor:  # [21, 3], m
        relative = (joints - joints[:, :1]) * t.hand_valid[:, None, None]
        total, count = summed(relative.sum(dim=0), t.hand_valid.sum())
        mean = (total / count.clamp(min=1)).detach()  # through the mean of all the gradient is 0
        square = ((relative - mean).square() * t.hand_valid[:, None, None]).sum(dim=0)
        return (summed(square)[0] / count.clamp(min=1) + 1e-8).sqrt()  # 0.1 mm: a root of 0 has no gradient

    return torch.relu(1 - spread(p.joints) / spread(t.joints))[1:].mean()
