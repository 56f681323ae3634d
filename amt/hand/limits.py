"""Posing a hand by anatomical angles, and the limits of these angles.

Each finger has a frame at rest: along the bone from its first joint to its tip, out of its back (the nail's side),
and the flexion axis back x along. A joint rotates by flexion about the flexion axis (positive curls the finger toward
the palm), then by abduction about the back axis (positive toward the thumb; for the thumb itself, out of the palm's
plane), and the thumb's first joint also twists about its bone (positive: its pulp faces the fingers). Angles
are in rad, fingers in the order thumb, index, middle, ring, little, joints from the palm outward. AMT's own hand is
posed exactly so, MANO's closely. :class:`JointLimits` measures a pose of any origin by these angles.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from amt.hand.mano import HandModel, ManoLayer
from amt.hand.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from amt.hand.shipped import shipped_hand
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS

# Least and greatest flexion of the three joints of each finger, [5][3], deg.
FLEXION_LIMITS = (
    ((-15, 45), (-5, 65), (-15, 80)),
    *[((-20, 90), (0, 105), (-5, 75))] * 4,
)
# Least and greatest abduction of each finger's first joint, [5], deg, and the thumb's twist.
ABDUCTION_LIMITS = ((-30, 50), (-10, 18), (-12, 12), (-16, 10), (-24, 10))
# A thumb's base that rotates under the palm about the hand's long axis, as in the synthetic grasps, reads as -17 to -72.
TWIST_LIMITS = (-75, 50)
# What a joint may rotate about an axis that :func:`articulate` does not use, deg: annotated poses are not exact hinges.
SLACK = 15

# MANO's pose holds joints 1-15; entry 3 f + k is the k-th joint of finger f.
_POSE_ORDER = tuple(joint - 1 for finger in FINGERS for joint in MANO_FINGER_JOINTS[finger])

# A closed fist, deg: flexion of every joint at curl 1, [5][3].
_FIST = ((4, 58, 42), (78, 98, 55), (82, 100, 58), (84, 100, 58), (84, 96, 56))
# Abduction at spread 1, deg; the thumb moves out of the palm's plane.
_SPREAD = (22, 14, 2, -9, -18)
# The thumb at opposition 1, deg: flexion, abduction and twist of its first joint; and its abduction at curl 1.
_OPPOSED = (28, 4, 44)
_THUMB_TUCKED = -24


def limits() -> tuple[Tensor, Tensor, Tensor]:
    """Flexion [5, 3, 2], abduction [5, 2] and twist [2] limits: least and greatest angle, rad, float32."""
    return tuple(
        torch.tensor(degrees) * (math.pi / 180) for degrees in (FLEXION_LIMITS, ABDUCTION_LIMITS, TWIST_LIMITS)
    )


@cache
def finger_frames(model: HandModel) -> np.ndarray:
    """Unit vectors [5, 3 (along, back, flexion axis), 3] of each finger at rest, in the model's frame.

    On a left hand they are the right hand's, mirrored as directions. A positive angle then rotates the other way:
    :func:`articulate` changes the sign.
    """
    joints = np.asarray(model.J_regressor, np.float64) @ model.v_template
    return _finger_frames(joints, model.v_template[model.tip_vertices], model.backs, model.side)


def _finger_frames(joints: np.ndarray, tips: np.ndarray, backs: np.ndarray, side: str) -> np.ndarray:
    mirror = np.array((1.0 if side == "right" else -1.0, 1.0, 1.0))
    frames = []
    for i, finger in enumerate(FINGERS):
        start = joints[MANO_FINGER_JOINTS[finger][1 if finger == "thumb" else 0]]
        along = (tips[i] - start) * mirror
        along = along / np.linalg.norm(along)
        back = backs[i] * mirror
        back = back - along * np.dot(back, along)
        back = back / np.linalg.norm(back)
        frames.append((along * mirror, back * mirror, np.cross(back, along) * mirror))
    return np.array(frames)


def articulate(
    flexion: Tensor,
    abduction: Tensor | None = None,
    twist: Tensor | None = None,
    *,
    model: HandModel | None = None,
) -> Tensor:
    """MANO's pose of 15 joints from anatomical angles. Nothing is clamped; see :func:`clamp_angles`.

    Args:
        flexion: [..., 5, 3], rad.
        abduction: [..., 5], rad, of each finger's first joint; default 0.
        twist: [...], rad, of the thumb's first joint; default 0.
        model: the hand whose finger frames are used; AMT's right hand by default.

    Returns:
        Axis-angle [..., 45], rad, in MANO's joint order, ``hands_mean`` included. For a left hand pass the left model:
        the same angles then give the mirror image.
    """
    model = shipped_hand() if model is None else model
    frames = torch.tensor(finger_frames(model), dtype=flexion.dtype, device=flexion.device)
    frames = frames * (1 if model.side == "right" else -1)  # a mirror reverses the sense of rotation
    rotations = axis_angle_to_matrix(flexion[..., None] * frames[:, 2, None])
    first = rotations[..., 0, :, :]
    if twist is not None:
        thumb = axis_angle_to_matrix(twist[..., None] * frames[0, 0])
        first = torch.cat((first[..., :1, :, :] @ thumb[..., None, :, :], first[..., 1:, :, :]), dim=-3)
    if abduction is not None:
        first = axis_angle_to_matrix(abduction[..., None] * frames[:, 1]) @ first
    rotations = torch.cat((first[..., None, :, :], rotations[..., 1:, :, :]), dim=-3)
    by_finger = matrix_to_axis_angle(rotations).flatten(-3, -2)  # [..., 15, 3]
    order = torch.tensor(np.argsort(_POSE_ORDER), device=flexion.device)
    return by_finger.index_select(-2, order).flatten(-2)


def grasp_angles(
    curl: Tensor, spread: Tensor | float = 0.0, opposition: Tensor | float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Anatomical angles of a whole hand from a few numbers.

    Args:
        curl: [..., 5]: 0 is straight, 1 a closed fist, each finger by itself; 0.2 to 0.3 a hand at rest.
        spread: [...]: 0 as at rest, 1 fingers parted as far as they go, -1 pressed together.
        opposition: [...]: 0 the thumb beside the palm, 1 in front of the fingers, its pulp toward theirs
            (a pinch: curl 0.3 and 0.55 of thumb and index, opposition 1).

    Returns:
        flexion [..., 5, 3], abduction [..., 5] and twist [...] for :func:`articulate`, rad.
    """
    radians = math.pi / 180
    shape = curl.shape[:-1]
    spread = torch.as_tensor(spread, dtype=curl.dtype, device=curl.device).expand(shape)
    opposition = torch.as_tensor(opposition, dtype=curl.dtype, device=curl.device).expand(shape)
    fist = curl.new_tensor(_FIST) * radians
    # A bent finger cannot part from its neighbours: the collateral ligaments tighten.
    slack = 1 - curl.new_tensor((0.0, 0.8, 0.8, 0.8, 0.8)) * curl.clamp(0, 1)
    abduction = spread[..., None] * slack * (curl.new_tensor(_SPREAD) * radians)
    thumb = curl.new_tensor((1.0, 0, 0, 0, 0))
    opposed, abducted, twisted = (opposition * (degrees * radians) for degrees in _OPPOSED)
    abducted = abducted + curl[..., 0] * (_THUMB_TUCKED * radians)
    flexion = curl[..., None] * fist
    first = flexion[..., :1] + (opposed[..., None] * thumb)[..., None]
    return torch.cat((first, flexion[..., 1:]), dim=-1), abduction + abducted[..., None] * thumb, twisted


def clamp_angles(flexion: Tensor, abduction: Tensor, twist: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The angles of :func:`articulate`, brought inside the joints' limits."""
    bounds = [bound.to(flexion) for bound in limits()]
    return tuple(x.clamp(b[..., 0], b[..., 1]) for x, b in zip((flexion, abduction, twist), bounds, strict=True))


class JointLimits(nn.Module):
    """How far poses lie outside the joints' limits; differentiable, with finite gradients everywhere.

    A first joint's rotation in its finger's frame is R = A(abduction) F(flexion) T(twist), the inverse of
    :func:`articulate` for flexions up to 90 deg. Toward 90 deg abduction and twist become one rotation, so both excesses are
    weighed by cos(flexion). The two outer joints are hinges: flexion is the twist of the twist-swing decomposition about the
    flexion axis, right for any angle, and the swing is what else there is.

    Args:
        layer: the right hand whose finger frames are used.

    Raises:
        ValueError: a left hand's layer. Mirror its poses: see :func:`amt.hand.mirror.mirror_rotations`.
    """

    def __init__(self, layer: ManoLayer):
        super().__init__()
        if layer.side != "right":
            raise ValueError("layer: expected a right hand's; mirror a left hand's poses")
        joints, tips, backs = (
            x.cpu().double().numpy() for x in (layer.joint_template, layer.v_template[layer.tip_vertices], layer.backs)
        )
        along, back, axis = _finger_frames(joints, tips, backs, layer.side).transpose(1, 0, 2)
        flexion, abduction, twist = limits()
        slack = torch.tensor((-SLACK, SLACK)) * (math.pi / 180)
        self.register_buffer("order", torch.tensor(_POSE_ORDER), persistent=False)
        # right-handed: back x along = flexion axis
        frames = torch.tensor(np.stack((back, along, axis), axis=-1), dtype=torch.float32)
        self.register_buffer("frames", frames, persistent=False)  # [5, 3, 3 (columns)]
        self.register_buffer("flexion", flexion, persistent=False)
        self.register_buffer("abduction", abduction, persistent=False)
        self.register_buffer("twist", torch.cat((twist[None], slack.expand(4, 2))), persistent=False)

    def angles(self, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flexion [..., 5, 3], abduction [..., 5] and the first joints' twist [..., 5], rad, of poses [..., 15, 3, 3].

        The inverse of :func:`articulate` for first joints that flex less than 90 deg.
        """
        local = self._local(rotations)
        flexion, abduction, twist = _saddle(local[..., 0, :, :])
        return torch.cat((flexion[..., None], _hinge(local[..., 1:, :, :])), dim=-1), abduction, twist

    def forward(self, rotations: Tensor) -> Tensor:
        """The excess of each joint [..., 15] in MANO's order, rad, of poses [..., 15, 3, 3]; 0 inside the limits.

        It adds up what flexion, abduction and twist (of a hinge: flexion and swing) exceed.
        """
        local = self._local(rotations)
        flexion, abduction, twist = _saddle(local[..., 0, :, :])
        flexion = torch.cat((flexion[..., None], _hinge(local[..., 1:, :, :])), dim=-1)
        sideways = _excess(abduction, self.abduction) + _excess(twist, self.twist)
        sideways = sideways * flexion[..., 0].detach().cos().abs()
        swing = torch.relu(_swing(local[..., 1:, :, :]) - SLACK * (math.pi / 180))
        excess = (_excess(flexion, self.flexion) + torch.cat((sideways[..., None], swing), dim=-1)).flatten(-2)
        return torch.zeros_like(excess).index_copy(-1, self.order, excess)  # from finger by finger to MANO's order

    def _local(self, rotations: Tensor) -> Tensor:
        """Poses [..., 15, 3, 3] in the fingers' frames, by finger: [..., 5, 3, 3, 3]."""
        by_finger = rotations.index_select(-3, self.order).unflatten(-3, (5, 3))
        frames = self.frames.to(rotations.dtype)[:, None]
        return frames.mT @ by_finger @ frames


def _saddle(first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flexion, abduction (less than 90 deg) and twist, rad, of R = A F T [..., 3, 3]."""
    side, straight = first[..., 2, 1], first[..., 1, 1]
    cosine = (side.square() + straight.square() + 1e-12).sqrt()  # of flexion; negative beyond 90 deg
    sign = torch.where(straight < 0, -1.0, 1.0)
    flexion = torch.atan2(-first[..., 0, 1], cosine * sign)
    return flexion, _angle(side * sign, straight * sign), _angle(first[..., 0, 2] * sign, first[..., 0, 0] * sign)


def _hinge(local: Tensor) -> Tensor:
    """The twist about the third axis, rad, of rotations [..., 3, 3]."""
    return _angle(local[..., 1, 0] - local[..., 0, 1], local[..., 0, 0] + local[..., 1, 1])


def _swing(local: Tensor) -> Tensor:
    """The angle by which rotations [..., 3, 3] tilt the third axis, rad."""
    sine = torch.linalg.vector_norm(local[..., :2, 2], dim=-1)
    return _angle(sine, local[..., 2, 2])


def _angle(sine: Tensor, cosine: Tensor) -> Tensor:
    """atan2 with a finite gradient at (0, 0): a hinge tilted by 180 deg has no twist."""
    nothing = (sine.abs() < 1e-6) & (cosine.abs() < 1e-6)
    return torch.atan2(sine, torch.where(nothing, 1.0, cosine))


def _excess(angle: Tensor, bounds: Tensor) -> Tensor:
    low, high = bounds.to(angle.dtype).unbind(-1)
    return torch.relu(angle - high) + torch.relu(low - angle)
