"""Training-time variation of a batch, on the device where it lies.

One change of the camera moves the image, its intrinsics, the box and every label together; the rest changes the image only.
What is drawn stands in ``amt.data.draws``, what happens to pixels in ``amt.data.pixels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from amt.data import pixels
from amt.data.draws import Look, View
from amt.hand.batch import Batch, Inputs, Targets
from amt.hand.camera import project, rotated_crop_camera, unproject
from amt.hand.rotations import compose_axis_angles, matrix_to_axis_angle
from amt.hand.tensors import TensorFields


@dataclass(frozen=True)
class Change(TensorFields):
    """A change of the camera, ready for the device."""

    warp: Tensor  # float32 [B, 3, 3]: from crop pixels to pixels of the cut
    rotation: Tensor  # float32 [B, 3, 3]: from the frame's camera to the crop's
    axis_angle: Tensor  # float32 [B, 3], rad: the same


@dataclass(frozen=True)
class Cuts(TensorFields):
    """A batch before its pixels and labels are varied: what goes to the device."""

    batch: (
        Batch  # inputs.image holds the cuts, uint8 [B, C, C, 3]; labels are the frame's; intrinsics and box are final
    )
    rows: Tensor  # int64 [B], of the cache
    alpha: Tensor | None  # uint8 [B, C, C], see amt.data.pixels.vary
    change: Change | None  # None: inputs.image holds the crops already, [B, S, S, 3]
    look: Look | None


def change_camera(inputs: Inputs, view: View, size: int, cut_size: int) -> tuple[Inputs, Change]:
    """The intrinsics and boxes of changed crops, and the change itself. On the CPU, in float64.

    Args:
        inputs: of the cuts: ``intrinsics`` is the cut's, ``box`` the true box in the frame.
        size: px: side of the crops; in the cut's pixels the true box is a square of that side in the middle.
        cut_size: px: side of the cuts.
    """
    middle = (cut_size - 1) / 2
    box = torch.cat([middle + view.shift * size, (size * view.zoom)[:, None]], 1)
    intrinsics, warp = rotated_crop_camera(inputs.intrinsics.double(), box, size, view.rotation)
    full, frame = inputs.box.double(), inputs.frame_intrinsics.double()
    # The box in the full picture that the rotated camera would have taken
    centre = full[:, None, :2] + view.shift[:, None] * full[:, 2:, None]
    ray = unproject(centre, torch.ones_like(centre[..., 0]), frame) @ view.rotation.mT
    side = size * frame[:, 0, 0] / intrinsics[:, 0, 0]
    changed = torch.cat([project(ray, frame)[:, 0], side[:, None]], 1)
    change = Change(torch.linalg.inv(warp).float(), view.rotation.float(), matrix_to_axis_angle(view.rotation).float())
    return replace(inputs, intrinsics=intrinsics.float(), box=changed.float()), change


def vary(
    cuts: Cuts,
    size: int,
    pictures: Tensor | None = None,
    mapped: Sequence[np.ndarray] | None = None,
    mapped_alpha: Sequence[np.ndarray] | None = None,
) -> Batch:
    """The batch of varied crops [B, 3, S, S] with their labels, on the device of ``cuts``. The host does not wait for it.

    Args:
        pictures: uint8 [N, C, C, 3]: backgrounds, on the same device.
        mapped, mapped_alpha: on a CPU: the cuts where they lie, uint8 [C, C, 3] and [C, C] each, where ``cuts`` has none.
    """
    batch = cuts.batch
    image, alpha = (batch.inputs.image, cuts.alpha) if mapped is None else (mapped, mapped_alpha)
    on_cpu = batch.index.device.type == "cpu"
    if on_cpu:
        from amt.data import pixels_cpu
    if cuts.change is None:
        crops = pixels_cpu.middle(image, size) if on_cpu else image.permute(0, 3, 1, 2).contiguous()
        return replace(batch, inputs=replace(batch.inputs, image=crops))
    vary_pixels = pixels_cpu.vary if on_cpu else pixels.vary
    inputs = replace(batch.inputs, image=vary_pixels(image, cuts.change.warp, cuts.look, size, alpha, pictures))
    targets = hide_covered(rotate_targets(batch.targets, cuts.change), inputs.intrinsics, cuts.look)
    return replace(batch, inputs=inputs, targets=targets)


def hide_covered(targets: Targets, intrinsics: Tensor, look: Look) -> Targets:
    """Targets in which joints under an erased rectangle or an occluder are no longer visible."""
    if targets.joint_visible is None or (look.erased is None and look.occluder is None):
        return targets
    pixel, visible = project(targets.joints, intrinsics), targets.joint_visible
    if look.erased is not None:
        top_left, bottom_right = look.erased[:, None, :2], look.erased[:, None, 2:]
        row_column = pixel.flip(-1).round()
        visible = visible & ~((row_column >= top_left) & (row_column < bottom_right)).all(-1)
    if look.occluder is not None:
        visible = visible & (pixels.occluder_cover(look.occluder, pixel[..., 0], pixel[..., 1])[0] < 0.5)
    return replace(targets, joint_visible=visible)


def rotate_targets(targets: Targets, change: Change) -> Targets:
    """Targets in the frame of a camera that is rotated about its centre."""
    rotation = change.rotation

    def points(x: Tensor) -> Tensor:
        return x @ rotation.mT

    # The hand rotates about J0(betas), which does not move with the pose: wrist = J0 + translation.
    wrist = targets.joints[:, 0]
    rotated = points(targets.joints)
    return replace(
        targets,
        joints=rotated,
        pose=torch.cat([compose_axis_angles(change.axis_angle, targets.pose[:, :3]), targets.pose[:, 3:]], 1),
        translation=targets.translation + rotated[:, 0] - wrist,
        vertices=points(targets.vertices),
        object_rotation=rotation @ targets.object_rotation,
        object_translation=points(targets.object_translation[:, None])[:, 0],
    )
