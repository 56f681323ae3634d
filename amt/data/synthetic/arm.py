"""What a picture shows of a person: the hand, a bare forearm that goes on behind it, and a sleeve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from amt.data.layout import HAND_SEGMENT
from amt.data.synthetic.person_hand import Hand
from amt.data.synthetic.primitives import sweep
from amt.data.synthetic.render import Body
from amt.data.synthetic.skin import Skin, vertex_normals
from amt.hand.rotations import axis_angle_to_matrix

CUFF = 0.05  # m from the wrist to a sleeve that is all the way down
LENGTH = 0.6  # m from the wrist to where the arm ends
AROUND = 24  # vertices of the forearm that a sleeve's beginning lies around
WRIST_BEND = 0.06  # m, along the forearm: where it takes its own direction


@dataclass(frozen=True)
class Clothes:
    """A sleeve, and how the forearm lies in a sequence."""

    sleeve: np.ndarray  # float32 [3], linear RGB
    bare: float  # m: how far the sleeve is rolled up
    tilt: np.ndarray  # float [3]: how the forearm bends away from the hand's direction


@dataclass(frozen=True)
class PosedHand:
    """A hand in the table's frame."""

    vertices: np.ndarray  # float64 [V, 3], m
    joints: np.ndarray  # float64 [21, 3], m
    rotation: np.ndarray  # float64 [3, 3]: the wrist's


def hand_bodies(hand: Hand, posed: PosedHand, skin: Skin, clothes: Clothes) -> list[Body]:
    """The hand and what follows its wrist. Forearm and sleeve are seen but carry no label, as in DexYCB."""
    model, joints = hand.model, posed.joints
    normals = vertex_normals(posed.vertices, model.f)
    end = posed.vertices[hand.wrist_end]
    toward = _unit(joints[0] - joints[9])
    across = _unit(joints[5] - joints[17] - toward * ((joints[5] - joints[17]) @ toward))
    up = np.cross(toward, across)
    bends = _unit(toward + 0.5 * clothes.tilt)
    centre = end.mean(0) - 0.004 * toward
    cuff = CUFF + clothes.bare
    if model.forearm is None:
        half = np.array([np.abs((end - centre) @ axis).max() for axis in (across, up)])
        stations = np.array([0.0, 0.015, CUFF, cuff])
        part = sweep(centre + np.outer(stations, bends), half + 0.04 * stations[:, None], across, up)
        colour = np.broadcast_to(skin.values[hand.wrist_end, :3].mean(0), part.vertices.shape)
        forearm = _body(part.vertices, part.faces, colour)
        middle, half = centre + cuff * bends, half + 0.04 * cuff
    else:
        vertices = _forearm(hand, posed, toward, bends)
        faces, ring = model.forearm.f, model.forearm.ring
        reach = (vertices - centre) @ bends
        cuff = min(cuff, float(reach.max()) - 0.03)  # the model's forearm ends near the elbow
        near = vertices[np.argsort(np.abs(reach - cuff))[:AROUND]]
        middle = (near.max(0) + near.min(0)) / 2
        half = np.array([np.abs((near - middle) @ axis).max() for axis in (across, up)])
        arm_normals = vertex_normals(vertices, faces)
        normals[ring[0]] += arm_normals[ring[1]]  # no seam
        normals[ring[0]] /= np.linalg.norm(normals[ring[0]], axis=1, keepdims=True)
        arm_normals[ring[1]] = normals[ring[0]]
        bare = faces[(reach[faces] < cuff + 0.02).all(1)]  # the sleeve hides the rest
        forearm = Body(vertices, bare, arm_normals, skin.forearm, 0, 0.05, skin.paint)
    along = np.array([0.0, LENGTH - cuff])
    part = sweep(middle + np.outer(along, bends), half + 0.003 + 0.04 * along[:, None], across, up)
    sleeve = _body(part.vertices, part.faces, np.broadcast_to(clothes.sleeve, part.vertices.shape))
    return [Body(posed.vertices, model.f, normals, skin.values, HAND_SEGMENT, skin.gloss, skin.paint), forearm, sleeve]


def _forearm(hand: Hand, posed: PosedHand, toward: np.ndarray, bends: np.ndarray) -> np.ndarray:
    """Vertices [W, 3], m, of the model's forearm: it leaves the hand in its direction and bends into another."""
    arm = hand.model.forearm
    rest = arm.v_template + arm.shapedirs @ hand.betas - hand.root
    vertices = rest @ posed.rotation.T + posed.joints[0]
    start = vertices[arm.ring[1]].mean(0)
    share = np.clip((vertices - start) @ toward / WRIST_BEND, 0, 1)
    share = share * share * (3 - 2 * share)
    axis = np.cross(toward, bends)
    angle = np.arctan2(np.linalg.norm(axis), toward @ bends)
    vectors = share[:, None] * angle * axis / max(np.linalg.norm(axis), 1e-9)
    bent = axis_angle_to_matrix(torch.from_numpy(vectors)).numpy()
    return start + (bent @ (vertices - start)[..., None])[..., 0]


def _body(vertices: np.ndarray, faces: np.ndarray, albedo: np.ndarray) -> Body:
    return Body(vertices, faces, vertex_normals(vertices, faces), albedo.astype(np.float32), 0, 0.03)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
