"""The MANO-format hand: a model file's arrays, and the layer that poses them by linear blend skinning.

Romero, Tzionas, Black, "Embodied Hands" (SIGGRAPH Asia 2017). MANO's own files are not shipped: ``mano_file.py`` reads a copy
that the user has. ``shipped.py`` holds a hand in the same format that anybody may use. :func:`amt.hand.load` takes both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from amt.hand.autocast import no_autocast
from amt.hand.rotations import axis_angle_to_matrix
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS, MANO_TO_SKELETON

NUM_MANO_JOINTS = 16
NUM_BETAS = 10
NUM_POSE = 45

SIDES = ("right", "left")
V, F, R, W = "V", "F", "R", "W"  # sizes that belong to a model: vertices, triangles, of the ring, of the forearm

_SHAPES = {
    "v_template": (V, 3),
    "shapedirs": (V, 3, NUM_BETAS),
    "posedirs": (V, 3, 9 * (NUM_MANO_JOINTS - 1)),
    "J_regressor": (NUM_MANO_JOINTS, V),
    "weights": (V, NUM_MANO_JOINTS),
    "kintree_table": (2, NUM_MANO_JOINTS),
    "f": (F, 3),
    "hands_components": (NUM_POSE, NUM_POSE),
    "hands_mean": (NUM_POSE,),
    "tip_vertices": (len(FINGERS),),
    "backs": (len(FINGERS), 3),
    "nails": (F,),
}
_FOREARM_SHAPES = {"v_template": (W, 3), "shapedirs": (W, 3, NUM_BETAS), "f": (None, 3), "ring": (2, R)}


@dataclass(frozen=True, eq=False)
class Forearm:
    """A forearm that begins where the hand's mesh ends, in the hand's rest frame; m."""

    v_template: np.ndarray  # float [W, 3]
    shapedirs: np.ndarray  # float [W, 3, 10], by the hand's betas
    f: np.ndarray  # int [G, 3]
    ring: np.ndarray  # int [2, R]: vertices of the hand, and those of the forearm at the same places


@dataclass(frozen=True, eq=False)
class HandModel:
    """One hand's arrays under the names that MANO's files use: metres, flat fingers at rest. Compared by identity.

    MANO's hand has V = 778 vertices, AMT's own another number; nothing else depends on it.

    Raises ValueError where an array's shape does not fit the others, a number is not finite, an index is out of range, or
    ``side`` is unknown.
    """

    v_template: np.ndarray  # float [V, 3], m: vertices at rest
    shapedirs: np.ndarray  # float [V, 3, 10], m per unit of beta
    posedirs: np.ndarray  # float [V, 3, 135], m per entry of (R - I) of joints 1-15
    J_regressor: np.ndarray  # float [16, V]: joints at rest from vertices
    weights: np.ndarray  # float [V, 16]: skinning weights, rows sum to 1
    kintree_table: np.ndarray  # int [2, 16]: parent of each joint, joint; the root's parent is -1
    f: np.ndarray  # int [F, 3]: triangles, counter-clockwise from outside
    hands_components: np.ndarray  # float [45, 45]: principal components of the pose, one a row
    hands_mean: np.ndarray  # float [45], rad: mean pose, axis-angle
    side: str  # "right" or "left"
    tip_vertices: np.ndarray  # int [5]: the fingertips, thumb first
    backs: np.ndarray  # float [5, 3]: a direction out of each finger's back (the nail's side) at rest, thumb first
    nails: np.ndarray  # bool [F]: triangles of fingernails; none in MANO's hand
    forearm: Forearm | None = None

    def __post_init__(self):
        if self.side not in SIDES:
            raise ValueError(f"side: expected 'right' or 'left', got {self.side!r}")
        _check_shapes(self, _SHAPES, "")
        broken = [name for name, array in self.arrays().items() if not np.isfinite(array).all()]
        if broken:
            raise ValueError(f"{broken[0]}: expected finite numbers")
        indices = {"f": self.f, "tip_vertices": self.tip_vertices}
        if self.forearm is not None:
            _check_shapes(self.forearm, _FOREARM_SHAPES, "forearm.")
            indices["forearm.ring[0]"] = self.forearm.ring[0]
        for name, array in indices.items():
            if array.size and (array.min() < 0 or array.max() >= self.num_vertices):
                raise ValueError(
                    f"{name}: vertex indices must be in 0..{self.num_vertices - 1}, got {array.min()}..{array.max()}"
                )
        if any(not -1 <= parent < joint for joint, parent in enumerate(self.parents)):
            raise ValueError(f"kintree_table: every parent must come before its joint, got {self.parents}")

    @property
    def num_vertices(self) -> int:
        return len(self.v_template)

    @property
    def parents(self) -> tuple[int, ...]:
        """Parent of each of the 16 joints; -1 for the root (files hold 2**32 - 1 there)."""
        return (-1, *(int(parent) for parent in self.kintree_table[0][1:]))

    @cached_property
    def parts(self) -> np.ndarray:
        """The part of each vertex, uint8 [V]: 0 palm and back of the hand, 1-5 thumb to little finger, by its weights."""
        shares = [self.weights[:, list(MANO_FINGER_JOINTS[finger])].sum(1) for finger in FINGERS]
        return np.argmax([1 - sum(shares), *shares], axis=0).astype(np.uint8)

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that tell this hand from any other: of its side and its arrays in float32."""
        found = hashlib.sha256(self.side.encode())
        for name, array in sorted(self.arrays().items()):
            array = np.asarray(array, np.float32 if np.asarray(array).dtype.kind == "f" else np.int64)
            found.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:12]

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, without ``side`` and the forearm."""
        return {name: getattr(self, name) for name in _SHAPES}


def _check_shapes(owner, shapes: dict[str, tuple], prefix: str) -> None:
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        got = np.shape(getattr(owner, name))
        if len(got) == len(shape):  # the first array with a free size tells it to the others
            for want, have in zip(shape, got, strict=True):
                if isinstance(want, str):
                    sizes.setdefault(want, have)
        wanted = tuple(sizes.get(want, want) if isinstance(want, str) else want for want in shape)
        if len(got) != len(wanted) or any(w not in (None, h) for w, h in zip(wanted, got, strict=True)):
            raise ValueError(f"{prefix}{name}: expected shape {wanted}, got {got}")


class HandMesh(NamedTuple):
    """What the layer returns, in the frame that the pose's global rotation leads to."""

    vertices: Tensor  # [B, V, 3], m
    joints: Tensor  # [B, 21, 3], m, order of amt.hand.skeleton.JOINT_NAMES


class ManoLayer(nn.Module):
    """Poses a :class:`HandModel`: shape, pose correctives, forward kinematics, linear blend skinning.

    Differentiable in every argument, in float32 or float64 (``.double()``); inside autocast it still computes in the
    buffers' dtype, because bf16 resolves no better than 4 mm at half a metre. Buffers are not part of the state dict,
    so that no checkpoint carries a licensed hand.
    """

    def __init__(self, model: HandModel):
        super().__init__()
        self.side, self.num_vertices, self.digest = model.side, model.num_vertices, model.digest
        self.parents = model.parents

        def buffer(name, array, dtype=torch.float32):
            self.register_buffer(name, torch.tensor(np.ascontiguousarray(array), dtype=dtype), persistent=False)

        regressor = np.asarray(model.J_regressor, np.float64)
        components = np.asarray(model.hands_components, np.float64)
        buffer("v_template", model.v_template)
        buffer("shapedirs", np.moveaxis(model.shapedirs, 2, 0))  # [10, V, 3]
        buffer("posedirs", np.moveaxis(model.posedirs, 2, 0))  # [135, V, 3]
        buffer("weights", model.weights)
        # The regressor is linear, so joints at rest need 10 numbers a coordinate and not the mesh.
        buffer("joint_template", regressor @ model.v_template)  # [16, 3]
        buffer("joint_shapedirs", np.einsum("jv,vck->kjc", regressor, model.shapedirs))  # [10, 16, 3]
        buffer("hands_components", components)
        buffer("hands_components_inverse", np.linalg.inv(components))
        buffer("hands_mean", model.hands_mean)
        buffer("backs", model.backs)
        buffer("faces", np.asarray(model.f, np.int64), torch.int64)
        buffer("tip_vertices", model.tip_vertices, torch.int64)
        buffer("joint_order", MANO_TO_SKELETON, torch.int64)

        # Kinematics runs level by level. Its indices are buffers, so that no call copies them to a GPU.
        levels = _levels(self.parents)
        order = [joint for level in levels for joint in level]
        self._level_sizes = [len(level) for level in levels]
        buffer("level_order", order, torch.int64)
        buffer("level_inverse", np.argsort(order), torch.int64)
        buffer("bone_parents", [max(self.parents[joint], 0) for joint in order], torch.int64)
        buffer("level_parents", [order.index(max(self.parents[joint], 0)) for joint in order], torch.int64)

    def forward(self, pose: Tensor, betas: Tensor, translation: Tensor) -> HandMesh:
        """Poses B hands.

        Args:
            pose: rotation matrices [B, 16, 3, 3] (the first is global, then MANO's 15 joints, each relative to
                its parent), or axis-angle [B, 48] in the same order (rad, ``hands_mean`` included: see
                :meth:`pca_to_pose`).
            betas: [B, 10].
            translation: [B, 3], m. The hand rotates about its root at rest: wrist = J0(betas) + translation.

        Returns:
            Vertices [B, V, 3] and joints [B, 21, 3], m.

        Raises:
            ValueError: a shape other than these.
        """
        if pose.shape[1:] not in ((48,), (NUM_MANO_JOINTS, 3, 3)):
            raise ValueError(f"pose: expected [B, 48] or [B, 16, 3, 3], got {list(pose.shape)}")
        if betas.shape[1:] != (NUM_BETAS,):
            raise ValueError(f"betas: expected [B, 10], got {list(betas.shape)}")
        if translation.shape[1:] != (3,):
            raise ValueError(f"translation: expected [B, 3], got {list(translation.shape)}")
        with no_autocast(pose.device.type):
            dtype = self.v_template.dtype
            pose, betas, translation = pose.to(dtype), betas.to(dtype), translation.to(dtype)
            rotations = pose if pose.dim() == 4 else axis_angle_to_matrix(pose.unflatten(-1, (16, 3)))
            return self._skin(rotations, betas, translation)

    def _skin(self, rotations: Tensor, betas: Tensor, translation: Tensor) -> HandMesh:
        rest = self.rest_joints(betas)
        relative = rotations[:, 1:] - torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        vertices = self.v_template + (betas @ self.shapedirs.flatten(1)).unflatten(1, (-1, 3))
        vertices = vertices + (relative.flatten(1) @ self.posedirs.flatten(1)).unflatten(1, (-1, 3))

        rotations, places = self.kinematics(rotations, rest)
        # A joint takes v to rotation @ (v - rest) + place: 12 numbers a joint, blended by one matrix product.
        shifts = places - (rotations @ rest[..., None])[..., 0]
        transforms = torch.cat((rotations, shifts[..., None]), dim=-1).flatten(2)
        blended = (self.weights @ transforms).unflatten(-1, (3, 4))
        vertices = (blended[..., :3] @ vertices[..., None])[..., 0] + blended[..., 3]

        vertices = vertices + translation[:, None]
        tips = vertices.index_select(1, self.tip_vertices)
        joints = torch.cat((places + translation[:, None], tips), dim=1).index_select(1, self.joint_order)
        return HandMesh(vertices, joints)

    def kinematics(self, pose: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Global rotations [B, 16, 3, 3] and positions [B, 16, 3] (m) of MANO's joints, before the translation.

        Args:
            pose: [B, 16, 3, 3], relative to the parents.
            rest: [B, 16, 3], m: see :meth:`rest_joints`.
        """
        # one level of the tree at a time
        local = pose.index_select(1, self.level_order)
        bones = rest.index_select(1, self.level_order) - rest.index_select(1, self.bone_parents)
        rotations, places = local[:, :1], rest[:, :1]
        start = 1
        for size in self._level_sizes[1:]:
            level = slice(start, start + size)
            parents = self.level_parents[level]
            above = rotations.index_select(1, parents)
            place = places.index_select(1, parents) + (above @ bones[:, level, :, None])[..., 0]
            rotations = torch.cat((rotations, above @ local[:, level]), dim=1)
            places = torch.cat((places, place), dim=1)
            start += size
        return rotations.index_select(1, self.level_inverse), places.index_select(1, self.level_inverse)

    def rest_joints(self, betas: Tensor) -> Tensor:
        """MANO's 16 joints of the unposed hand, [B, 16, 3] (m), for betas [B, 10]. The first is J0(betas)."""
        return self.joint_template + (betas @ self.joint_shapedirs.flatten(1)).unflatten(1, (-1, 3))

    def pca_to_pose(self, coefficients: Tensor) -> Tensor:
        """Axis-angle [..., 45] (rad) of PCA coefficients [..., N <= 45], with ``hands_mean`` added as in DexYCB."""
        return coefficients @ self.hands_components[: coefficients.shape[-1]] + self.hands_mean

    def pose_to_pca(self, pose: Tensor) -> Tensor:
        """The 45 PCA coefficients [..., 45] of axis-angle poses [..., 45]: the inverse of :meth:`pca_to_pose`."""
        return (pose - self.hands_mean) @ self.hands_components_inverse


def _levels(parents: tuple[int, ...]) -> list[list[int]]:
    """Joints by their distance from the root: [[0], its children, ...]."""
    depth = [0] * len(parents)
    for joint, parent in enumerate(parents):
        if parent >= 0:
            depth[joint] = depth[parent] + 1
    return [[joint for joint, d in enumerate(depth) if d == level] for level in range(max(depth) + 1)]
