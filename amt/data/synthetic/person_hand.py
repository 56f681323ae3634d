"""A person's hand as grasping needs it: its anatomy, and a fast way to pose a part of its vertices."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from amt.hand.mano import HandModel, ManoLayer
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS

FINGER_SAMPLES, PALM_SAMPLES = 56, 90  # vertices that stand for a finger and for the palm while a grasp is looked for


class Part(NamedTuple):
    """Vertices of the hand, with what posing them needs."""

    finger_of: Tensor  # int64 [N]: 0 thumb to 4 little finger, -1 palm
    shaped: Tensor  # float32 [N, 3], m: at rest, with the person's betas
    posedirs: Tensor  # float32 [135, N * 3]
    weights: Tensor  # float32 [N, 16]


@lru_cache(maxsize=4)
def _layer(model: HandModel) -> ManoLayer:
    return ManoLayer(model)


@lru_cache(maxsize=4)
def finger_of(model: HandModel) -> np.ndarray:
    """int64 [V]: the finger that each vertex belongs to, 0 thumb to 4 little finger; -1 palm."""
    joint_of, found = model.weights.argmax(1), np.full(model.num_vertices, -1)
    for number, finger in enumerate(FINGERS):
        found[np.isin(joint_of, MANO_FINGER_JOINTS[finger])] = number
    return found


@lru_cache(maxsize=4)
def _samples(model: HandModel) -> np.ndarray:
    """Vertices spread over each finger and the palm: each is the one farthest from those before it."""
    chosen = []
    for finger in range(-1, 5):
        mine = np.flatnonzero(finger_of(model) == finger)
        points, nearest, pick = model.v_template[mine], np.full(len(mine), np.inf), 0
        for _ in range(min(len(mine), FINGER_SAMPLES if finger >= 0 else PALM_SAMPLES)):
            chosen.append(mine[pick])
            nearest = np.minimum(nearest, ((points - points[pick]) ** 2).sum(1))
            pick = int(nearest.argmax())
    return np.array(chosen)


@lru_cache(maxsize=8)
def _fixed(model: HandModel, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What a part of any person's hand has: fingers, pose directions, weights."""
    layer, fingers = _layer(model), torch.from_numpy(finger_of(model))
    if whole:
        return fingers, layer.posedirs.flatten(1), layer.weights
    chosen = torch.from_numpy(_samples(model))
    return fingers[chosen], layer.posedirs[:, chosen].flatten(1), layer.weights[chosen]


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
        self.flexion = np.stack([self._flexion_axis(number) for number in range(5)])
        self._under_palm = self.along * np.sign(np.cross(self.along, -self.across) @ self.palm)
        self._rest_joints = self.layer.rest_joints(betas)
        self.whole = self._part(None)
        self.sampled = self._part(_samples(self.model))

    def _flexion_axis(self, finger: int) -> np.ndarray:
        """Unit axis, rest frame, about which a positive rotation bends a finger toward the palm."""
        base, tip = self.rest[1 + 4 * finger], self.rest[4 + 4 * finger]
        toward = self.palm if finger else 0.45 * self.palm + 0.9 * self.across
        return _unit(np.cross(_unit(tip - base), toward))

    def _part(self, vertices: np.ndarray | None) -> Part:
        shaped = torch.from_numpy(self.template.astype(np.float32))
        fingers, posedirs, weights = _fixed(self.model, vertices is None)
        return Part(fingers, shaped if vertices is None else shaped[vertices], posedirs, weights)

    def rotations(self, angles: np.ndarray, opposition: np.ndarray, spread: np.ndarray) -> Tensor:
        """Joint rotations float32 [B, 16, 3, 3] (the first is the identity) of flexion angles.

        Args:
            angles: [B, 5, 3], rad: each finger's base, middle and outer joint.
            opposition: [B], rad: how far the thumb's base is rotated under the palm.
            spread: [B, 5], rad: sideways rotation of the fingers' bases.
        """
        bent = np.tile(np.eye(3, dtype=np.float32), (len(angles), 16, 1, 1))
        for number, finger in enumerate(FINGERS):
            bent[:, MANO_FINGER_JOINTS[finger]] = _about(self.flexion[number], angles[:, number])
            # Rotated about the hand's length, the thumb's tip moves from beside the palm to in front of it.
            base = _about(self.palm, spread[:, number]) if number else _about(self._under_palm, opposition)
            first = MANO_FINGER_JOINTS[finger][0]
            bent[:, first] = base @ bent[:, first]
        return torch.from_numpy(bent)

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


def _about(axis: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """float32 [..., 3, 3]: rotations by angles [...] (rad) about a unit axis, by Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angles = np.asarray(angles)[..., None, None]
    return (np.eye(3) + np.sin(angles) * cross + (1 - np.cos(angles)) * (cross @ cross)).astype(np.float32)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
