"""A person's hand as grasping needs it: its anatomy, and a fast way to pose a part of its vertices."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from amt.hand.limits import FLEXION_LIMITS, JointLimits, finger_frames
from amt.hand.mano import HandModel, ManoLayer
from amt.hand.mirror import mirror_rotations
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS

MOST_OPPOSED = 1.45  # rad
COARSE, FINE = (56, 90), (140, 260)  # vertices that stand for a finger and for the palm while a grasp is looked for


_JOINTS = [joint for finger in FINGERS for joint in MANO_FINGER_JOINTS[finger]]  # MANO's, finger by finger
_EYE = np.eye(3, dtype=np.float32)


class Part(NamedTuple):
    """Vertices of the hand, with what posing them needs."""

    finger_of: Tensor  # int64 [N]: 0 thumb to 4 little finger, -1 palm
    shaped: Tensor  # float32 [N, 3], m: at rest, with the person's betas
    posedirs: Tensor  # float32 [135, N * 3]
    weights: Tensor  # float32 [N, 16]
    reach: Tensor  # float32 [N, 3], m: how far at most a radian of each joint of its finger moves a vertex


@lru_cache(maxsize=4)
def _layer(model: HandModel) -> ManoLayer:
    return ManoLayer(model)


@lru_cache(maxsize=4)
def _limits(model: HandModel) -> JointLimits:
    """The limits of a hand's joints; of a left hand those of its mirror image."""
    if model.side == "right":
        return JointLimits(_layer(model))
    flip = np.array((-1.0, 1.0, 1.0))
    return JointLimits(
        ManoLayer(replace(model, v_template=model.v_template * flip, backs=model.backs * flip, side="right"))
    )


@lru_cache(maxsize=4)
def finger_of(model: HandModel) -> np.ndarray:
    """int64 [V]: the finger that each vertex belongs to, 0 thumb to 4 little finger; -1 palm."""
    joint_of, found = model.weights.argmax(1), np.full(model.num_vertices, -1)
    for number, finger in enumerate(FINGERS):
        found[np.isin(joint_of, MANO_FINGER_JOINTS[finger])] = number
    return found


@lru_cache(maxsize=16)
def _samples(model: HandModel, finger_samples: int, palm_samples: int) -> np.ndarray:
    """Vertices spread over each finger and the palm: each is the one farthest from those before it."""
    chosen = []
    for finger in range(-1, 5):
        mine = np.flatnonzero(finger_of(model) == finger)
        points, nearest, pick = model.v_template[mine], np.full(len(mine), np.inf), 0
        for _ in range(min(len(mine), finger_samples if finger >= 0 else palm_samples)):
            chosen.append(mine[pick])
            nearest = np.minimum(nearest, ((points - points[pick]) ** 2).sum(1))
            pick = int(nearest.argmax())
    return np.array(chosen)


@lru_cache(maxsize=16)
def _fixed(model: HandModel, samples: tuple[int, int] | None) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
    """What a part of any person's hand has: its vertices, their fingers, pose directions and weights."""
    layer, fingers = _layer(model), finger_of(model)
    chosen = np.arange(model.num_vertices) if samples is None else _samples(model, *samples)
    which = torch.from_numpy(chosen)
    return chosen, torch.from_numpy(fingers)[which], layer.posedirs[:, which].flatten(1), layer.weights[which]


@dataclass
class Hand:
    """A person's hand: the layer, betas, and the anatomy that closing needs, read off the rest pose."""

    model: HandModel
    betas: np.ndarray  # float [10]
    layer: ManoLayer = field(init=False)

    def __post_init__(self):
        self.layer = _layer(self.model)
        betas = torch.as_tensor(self.betas, dtype=torch.float32)[None]
        mesh = self.layer(torch.zeros(1, 48), betas, torch.zeros(1, 3))
        self.template, self.rest = (x[0].double().numpy() for x in mesh)
        self.root = self.rest[0]
        wrist, index, middle, little = self.rest[[0, 5, 9, 17]]
        normal = np.cross(index - wrist, little - wrist)
        self.palm = _unit(normal if self.model.side == "right" else -normal)
        self.along = _unit(middle - wrist)
        self.across = _unit(little - index - self.palm * ((little - index) @ self.palm))
        length = (self.template - wrist) @ self.along
        self.wrist_end = np.flatnonzero(length < length.min() + 0.006)  # the vertices where a forearm goes on
        self.finger_of = finger_of(self.model)
        outer = [MANO_FINGER_JOINTS[finger][2] for finger in FINGERS]
        self.outer = np.isin(self.model.weights.argmax(1), outer)  # bool [V]: the fingers' last phalanges
        # A positive rotation about these axes bends a finger toward the palm.
        axes = np.repeat(finger_frames(self.model)[:, 2:], 3, 1) * (1.0 if self.model.side == "right" else -1.0)
        axes[0, 0] = self._thumb_axis()
        under_palm = self.along * np.sign(np.cross(self.along, -self.across) @ self.palm)
        self.flexion_axes = axes  # float64 [5, 3, 3], unit, rest frame
        self._flexion_axes = _cross_matrices(axes)  # [5, 3, ...]
        self._base_axes = _cross_matrices(np.stack((under_palm, *[self.palm] * 4)))  # [5, ...]
        self._rest_joints = self.layer.rest_joints(betas)
        self.whole = self._part(None)

    def _thumb_axis(self) -> np.ndarray:
        """Unit axis, rest frame, about which the thumb's base bends toward the fingers."""
        return _unit(np.cross(_unit(self.rest[4] - self.rest[1]), 0.45 * self.palm + 0.9 * self.across))

    def thumb_bends(self, opposition: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest bend of the thumb's base, rad [...], that its limits allow at an opposition [...], rad."""
        oppositions, low, high = self._thumb_reach
        return np.interp(opposition, oppositions, low), np.interp(opposition, oppositions, high)

    def within(self, angles: np.ndarray, opposition: np.ndarray) -> np.ndarray:
        """Angles [C, 5, 3] (rad) inside the joints' limits at oppositions [C]."""
        low, high = np.moveaxis(np.broadcast_to(np.radians(FLEXION_LIMITS), (len(angles), 5, 3, 2)).copy(), -1, 0)
        low[:, 0, 0], high[:, 0, 0] = self.thumb_bends(opposition)
        return np.clip(angles, low, high)

    @cached_property
    def sampled(self) -> Part:
        """What stands for the hand before an object."""
        return self._part(COARSE)

    @cached_property
    def sampled_fingers(self) -> Part:
        return self._part((COARSE[0], 0))

    @cached_property
    def fine(self) -> Part:
        """What stands for it before an object with thin walls, which slip between few vertices."""
        return self._part(FINE)

    @cached_property
    def fine_fingers(self) -> Part:
        return self._part((FINE[0], 0))

    @cached_property
    def _thumb_reach(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Oppositions, and the lowest and highest bend of the thumb's base there."""
        oppositions, bends = np.linspace(0, MOST_OPPOSED, 8), np.radians(np.arange(-40, 51, 3.0))
        angles = np.zeros((len(oppositions), len(bends), 5, 3))
        angles[..., 0, 0] = bends
        every = np.repeat(oppositions, len(bends))
        rotations = self.rotations(angles.reshape(-1, 5, 3), every, np.zeros((len(every), 5)))
        base = MANO_FINGER_JOINTS["thumb"][0] - 1
        inside = self.excess(rotations)[:, base].reshape(angles.shape[:2]) <= 0
        return oppositions, bends[inside.argmax(1)], bends[len(bends) - 1 - inside[:, ::-1].argmax(1)]

    def _part(self, samples: tuple[int, int] | None) -> Part:
        """All vertices, or so many of each finger and of the palm."""
        chosen, fingers, posedirs, weights = _fixed(self.model, samples)
        shaped = self.template[chosen]
        reach = np.zeros((len(chosen), 3))
        for k, finger in enumerate(FINGERS):
            numbers, mine = list(MANO_FINGER_JOINTS[finger]), (fingers == k).numpy()
            beyond = np.cumsum(self.model.weights[chosen[mine]][:, numbers[::-1]], 1)[:, ::-1]
            arms = shaped[mine, None] - self._rest_joints[0, numbers].double().numpy()
            reach[mine] = beyond * np.linalg.norm(arms, axis=-1)
        shaped, reach = (torch.from_numpy(a.astype(np.float32)) for a in (shaped, reach))
        return Part(fingers, shaped, posedirs, weights, reach)

    def rotations(self, angles: np.ndarray, opposition: np.ndarray, spread: np.ndarray) -> Tensor:
        """Joint rotations float32 [B, 16, 3, 3] (the first is the identity) of flexion angles.

        Args:
            angles: [B, 5, 3], rad: each finger's base, middle and outer joint.
            opposition: [B], rad: how far the thumb's base is rotated under the palm.
            spread: [B, 5], rad: sideways rotation of the fingers' bases.
        """
        joints = _about(self._flexion_axes, angles)
        # Rotated about the hand's length, the thumb's tip moves from beside the palm to in front of it.
        sideways = np.concatenate((np.asarray(opposition)[:, None], np.asarray(spread)[:, 1:]), 1)
        joints[:, :, 0] = _about(self._base_axes, sideways) @ joints[:, :, 0]
        bent = np.empty((len(angles), 16, 3, 3), np.float32)
        bent[:, 0], bent[:, _JOINTS] = np.eye(3), joints.reshape(-1, 15, 3, 3)
        return torch.from_numpy(bent)

    def excess(self, rotations: Tensor) -> np.ndarray:
        """float32 [B, 15], rad: how far joint rotations [B, 16, 3, 3] lie outside the joints' limits (amt.hand.limits)."""
        rotations = rotations[:, 1:]
        return _limits(self.model)(rotations if self.model.side == "right" else mirror_rotations(rotations)).numpy()

    def joints(self, rotations: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Global rotations [B, 16, 3, 3] and places [B, 16, 3] (m) of MANO's joints, untranslated, float32."""
        turned, places = self.layer.kinematics(rotations, self._rest_joints.expand(len(rotations), -1, -1))
        return turned.numpy(), places.numpy()

    def posed(self, rotations: Tensor, part: Part) -> Tensor:
        """float32 [B, N, 3], m: a part's vertices of joint rotations [B, 16, 3, 3], untranslated, as the layer has them."""
        with torch.no_grad():
            relative = (rotations[:, 1:] - torch.eye(3)).flatten(1)
            vertices = part.shaped + (relative @ part.posedirs).unflatten(1, (-1, 3))
            rest = self._rest_joints.expand(len(rotations), -1, -1)
            turned, places = self.layer.kinematics(rotations, rest)
            shifts = places - (turned @ rest[..., None])[..., 0]
            blended = part.weights @ torch.cat((turned, shifts[..., None]), dim=-1).flatten(2)
            # Column by column: a product of many small matrices takes ten times as long.
            columns = blended.unflatten(-1, (3, 4))
            moved = torch.addcmul(columns[..., 3], columns[..., 0], vertices[..., 0:1])
            return moved.addcmul_(columns[..., 1], vertices[..., 1:2]).addcmul_(columns[..., 2], vertices[..., 2:3])

    def vertices(self, rotations: Tensor) -> np.ndarray:
        """float32 [B, V, 3], m, of joint rotations [B, 16, 3, 3], at zero translation."""
        return self.posed(rotations, self.whole).numpy()


def _cross_matrices(axes: np.ndarray) -> np.ndarray:
    """float32 [..., 2, 3, 3]: the matrix of the cross product with unit axes [..., 3], and its square."""
    cross = np.zeros((*axes.shape, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        cross[..., i, j], cross[..., j, i] = -axes[..., k], axes[..., k]
    return np.stack((cross, cross @ cross), -3).astype(np.float32)


def _about(axes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """float32 [..., 3, 3]: rotations by angles [...] (rad) about axes of :func:`_cross_matrices`, by Rodrigues' formula."""
    angles = np.asarray(angles, np.float32)[..., None, None]
    return _EYE + np.sin(angles) * axes[..., 0, :, :] + (1 - np.cos(angles)) * axes[..., 1, :, :]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
