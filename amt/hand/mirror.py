"""Left hands as right hands: the scene seen in a mirror, x -> -x.

A model that learns right hands only mirrors a left one on the way in, and mirrors its prediction back. Mirroring twice is
the identity. A mirrored hand belongs to the other side's model. MANO's own two files have different shape spaces: the same
betas give meshes 1 to 2 mm apart in them. :func:`amt.hand.fit.fit_joints` finds the betas of the other file.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from amt.hand.batch import Inputs, Targets
from amt.kernels.constant import constant


def mirror_points(points: Tensor) -> Tensor:
    """Points or translations [..., 3] with x negated."""
    return points * constant((-1, 1, 1), points)


def mirror_rotations(rotations: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] as ``M R M`` with M = diag(-1, 1, 1)."""
    return rotations * constant(((1, -1, -1), (-1, 1, 1), (-1, 1, 1)), rotations)


def mirror_pose(pose: Tensor) -> Tensor:
    """Axis-angle vectors laid end to end, [..., 3 n]: each (a, b, c) becomes (a, -b, -c)."""
    return (pose.unflatten(-1, (-1, 3)) * constant((1, -1, -1), pose)).flatten(-2)


def mirror_pixels(pixels: Tensor, width: Tensor | int) -> Tensor:
    """Pixels [..., 2] of an image ``width`` px wide: u becomes width - 1 - u."""
    return torch.stack((width - 1 - pixels[..., 0], pixels[..., 1]), dim=-1)


def mirror_intrinsics(intrinsics: Tensor, width: Tensor | int) -> Tensor:
    """K [..., 3, 3] of the mirrored image, ``width`` [...] px wide: cx becomes width - 1 - cx, skew changes sign."""
    signs = constant(((1, -1, -1), (1, 1, 1), (1, 1, 1)), intrinsics)
    shift = width.to(intrinsics)[..., None, None] - 1 if isinstance(width, Tensor) else width - 1
    return intrinsics * signs + constant(((0, 0, 1), (0, 0, 0), (0, 0, 0)), intrinsics) * shift


def choose(which: Tensor, mirrored: Tensor, original: Tensor) -> Tensor:
    """``mirrored`` [B, ...] where ``which`` [B] (bool) is True, else ``original`` [B, ...]."""
    return torch.where(which.reshape(-1, *[1] * (original.dim() - 1)), mirrored, original)


def mirror_inputs(inputs: Inputs, which: Tensor) -> Inputs:
    """The inputs with the samples of ``which`` (bool [B]) mirrored: image, cameras, box, object, the hand's side."""
    width = inputs.frame_size[:, 1]
    box = torch.cat((mirror_pixels(inputs.box[:, :2], width), inputs.box[:, 2:]), dim=-1)
    return replace(
        inputs,
        image=choose(which, inputs.image.flip(-1), inputs.image),
        intrinsics=choose(which, mirror_intrinsics(inputs.intrinsics, inputs.image.shape[-1]), inputs.intrinsics),
        box=choose(which, box, inputs.box),
        frame_intrinsics=choose(which, mirror_intrinsics(inputs.frame_intrinsics, width), inputs.frame_intrinsics),
        right=inputs.right ^ which,
        object_points=choose(which, mirror_points(inputs.object_points), inputs.object_points),
        object_look=None if inputs.object_look is None else _mirror_look(inputs.object_look, which),
    )


def _mirror_look(look: Tensor, which: Tensor) -> Tensor:
    """What is known of points [B, P, 7]: normals are mirrored, colours stay."""
    signs = constant((-1, 1, 1) + (1,) * (look.shape[-1] - 3), look)
    return choose(which, look * signs, look)


def mirror_targets(targets: Targets, which: Tensor) -> Targets:
    """The targets with the samples of ``which`` (bool [B]) mirrored; contacts keep their vertices and points."""
    mirrored = {
        "joints": mirror_points,
        "pose": mirror_pose,
        "translation": mirror_points,
        "vertices": mirror_points,
        "object_rotation": mirror_rotations,
        "object_translation": mirror_points,
    }
    fields = {name: getattr(targets, name) for name in mirrored}
    return replace(targets, **{name: choose(which, mirrored[name](x), x) for name, x in fields.items()})
