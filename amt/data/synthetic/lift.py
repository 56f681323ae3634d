"""Approach, grasp, hold and lift: the motion of a sequence that begins with the object at rest on the table.

The open hand comes from the arm's side and from above, goes straight at the object for the last centimetres, closes, holds, and
takes the object up. Times are shares of the sequence; every part begins and ends at rest (least jerk).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from amt.data.synthetic.distance import SignedDistance
from amt.data.synthetic.grasps import MOST_DEPTH, Grasp
from amt.data.synthetic.objects import Shape
from amt.data.synthetic.primitives import Part, box
from amt.data.synthetic.rests import SUNK, UPRIGHT, rests
from amt.data.synthetic.scene import Motion
from amt.hand.rotations import axis_angle_to_matrix

PHASES = ("approach", "close", "hold", "lift")
STARTS = (0.0, 0.36, 0.52, 0.60)  # of the phases; the last ends at END
END = 0.95
STRAIGHT, AROUND = 0.12, 0.10  # m of the approach: along the hand's way into the grasp, and from the arm's side
BLOCKS = (0.06, 0.04, 0.02, 0.01)  # m: sides of what may stand under a thing whose grasp the table leaves no room for
TRIES = 8


def phases(frames: int) -> dict[str, int]:
    """The first frame of each phase."""
    return {name: int(np.ceil(start * frames - 0.5)) for name, start in zip(PHASES, STARTS, strict=True)}


def lift(
    grasp: Grasp, shape: Shape, distance: SignedDistance, posed: Callable, frames: int, rng: np.random.Generator
) -> Motion:
    """Where hand and object are in every frame.

    An object whose grasp no rest on the table leaves room for begins higher, upon a :func:`block`.

    Args:
        distance: to the shape.
        posed: openness [F], offsets [F, 3], bends [F, 3] -> the hand's vertices [F, V, 3] in the object's frame.
    """
    s = (np.arange(frames) + 0.5) / frames
    bounds = (*STARTS, END)
    come, close, _, rise = (least_jerk((s - a) / (b - a)) for a, b in pairwise(bounds))
    resting = rests(shape)
    holding = posed(np.array([0.0, 1.0]), np.zeros((2, 3)), np.zeros((2, 3)))
    above = resting.above(holding).min(0)
    fits = np.flatnonzero((above > -SUNK) & (resting.up @ grasp.arm > UPRIGHT))
    chosen = int(rng.choice(fits)) if len(fits) else int((above + 0.1 * (resting.up @ grasp.arm)).argmax())
    start, up = _upright(resting.up[chosen], grasp.arm, rng), resting.up[chosen]

    far = 1 - come
    around = unit(grasp.arm - up * (up @ grasp.arm)) + rng.uniform(0.4, 1.0) * up
    around -= max(0.0, float(around @ grasp.toward)) * grasp.toward  # not against the way into the grasp
    bend = unit(rng.normal(0, 1, 3)) * rng.uniform(0.1, 0.35)
    openness = (1 - 0.3 * least_jerk((far - 0.4) / 0.6)) * (1 - close)
    for attempt in range(TRIES):
        way = STRAIGHT * (2 * far - far**2)[:, None] * -grasp.toward + AROUND * (far**2)[:, None] * unit(around)
        bends = (far**2)[:, None] * bend * (attempt < TRIES // 2)
        hands = posed(openness, way, bends)
        lowest = float((hands @ up).min() - resting.height[chosen])
        if lowest > min(-2 * SUNK, float(above[chosen])) - 1e-6 and distance(hands).min() > -MOST_DEPTH:
            break
        around, bend = around + 0.5 * up, 0.5 * bend

    low, high = np.array([-0.05, -0.05, 0.0]), np.array([0.05, 0.05, 0.0])
    raised = 0.0 if lowest > -2 * SUNK else 0.003 - lowest
    ground = np.array([0, 0, raised - resting.height[chosen]])
    first = rng.uniform(low, high) + ground
    last = rng.uniform(low, high) + ground + np.array([0, 0, rng.uniform(0.08, 0.2)])
    swing = unit(rng.normal(0, 1, 3)) * np.radians(rng.uniform(10, 35))
    translations = first + rise[:, None] * (last - first)
    for _ in range(TRIES):  # it turns only as far as neither the object nor the hand gets into the table
        turned = least_jerk((rise - 0.1) / 0.9)[:, None] * swing
        rotations = axis_angle_to_matrix(torch.from_numpy(turned)).numpy() @ start
        low = [(points @ rotations[:, 2].T).min(0) + translations[:, 2] for points in (shape.mesh()[0], holding[0])]
        if all(heights.min() > min(free, heights[0]) - 1e-6 for heights, free in zip(low, (0.0, -SUNK), strict=True)):
            break
        swing = 0.6 * swing
    else:
        rotations = np.broadcast_to(start, rotations.shape)
    return Motion(rotations, translations, openness, way, bends)


def block(bottom: np.ndarray, moving: np.ndarray) -> Part | None:
    """What a raised object rests on: a block up to the lowest of the points ``bottom`` [N, 3] (m, table's frame), clear of points
    ``moving`` [M, 3], as broad and as near to the object's middle as there is room for; None on the table or without room."""
    height = bottom[:, 2].min()
    if height < 0.001:
        return None
    spots = bottom[bottom[:, 2] < height + 0.003, :2]
    spots = spots[np.argsort(np.linalg.norm(spots - bottom[:, :2].mean(0), axis=1))]
    low = moving[moving[:, 2] < height, :2]
    for side in BLOCKS:
        for spot in spots:
            if not (np.abs(low - spot) < side / 2 + 0.002).all(1).any():
                return box(side, side, height).moved((*spot, height / 2))
    return None


def _upright(up: np.ndarray, arm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A rotation [3, 3], object to table, that takes ``up`` to z and lets the arm come from the person's side (-y)."""
    flat = unit(arm - up * (arm @ up))
    azimuth = np.radians(rng.uniform(-70, 70))
    side = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    z = np.array([0.0, 0.0, 1.0])
    return np.stack([side, z, np.cross(side, z)], 1) @ np.stack([flat, up, np.cross(flat, up)])


def least_jerk(t: np.ndarray) -> np.ndarray:
    """0 to 1 as t goes from 0 to 1, at rest at both ends."""
    t = np.clip(t, 0, 1)
    return t**3 * (10 - 15 * t + 6 * t**2)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
