"""Who and what a sequence shows: people, the camera rig, the object in the hand, its motion, what else is on the table.

Everything is drawn from generators seeded with (seed, subject, sequence), so that any sequence can be made alone, in any
process, and comes out the same. The table's frame: metres, z up, origin on the table top; the person sits at -y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from amt.data.layout import NEVER_GRASPED, SERIALS, SUBJECTS
from amt.data.synthetic.cameras import DEFAULT, CameraConfig
from amt.data.synthetic.grasps import Grasp
from amt.data.synthetic.objects import Shape
from amt.data.synthetic.render import Camera, Light
from amt.hand.rotations import axis_angle_to_matrix

# Streams of random numbers: a new use must not shift the others.
_SUBJECT, _RIG, _CHOICE, _SEQUENCE, _PICTURE = range(5)
SECONDS = 2.4  # a sequence takes, as DexYCB's 72 frames at 30 a second


@dataclass(frozen=True)
class Person:
    """A subject: both hands share the betas, as DexYCB has it."""

    betas: np.ndarray  # float64 [10]
    tone: float  # skin, 0 dark to 1 light
    warmth: float


@dataclass(frozen=True)
class Clutter:
    """Another object that stands on the table throughout a sequence."""

    class_id: int
    rotation: np.ndarray  # float64 [3, 3], object to table
    translation: np.ndarray  # float64 [3], m


@dataclass(frozen=True)
class Motion:
    """The held object's path, and the hand's against its grasp: one entry a frame."""

    rotations: np.ndarray  # float64 [F, 3, 3], object to table
    translations: np.ndarray  # float64 [F, 3], m
    openness: np.ndarray  # float64 [F]: 0 holds, 1 open
    offsets: np.ndarray  # float64 [F, 3], m: of the hand from its grasp, in the object's frame
    bends: np.ndarray  # float64 [F, 3], rad: the wrist's rotation from its grasp, axis-angle, in the object's frame


def person(seed: int, subject: int) -> Person:
    rng = np.random.default_rng([seed, _SUBJECT, subject])
    return Person(
        np.clip(rng.normal(0, 1, 10), -2, 2),
        float((subject * 0.382 + rng.uniform(0, 0.2)) % 1),
        float(rng.uniform(-1, 1)),
    )


def rig(seed: int, subject: int, config: CameraConfig = DEFAULT, height: int = 480, width: int = 640) -> list[Camera]:
    """Eight calibrated cameras around the table, 0.55-1 m from where the hand works."""
    lenses = np.random.default_rng([seed, _RIG])  # a camera keeps its lens, but is mounted anew for each subject
    mounts = np.random.default_rng([seed, _RIG, subject])
    cameras = []
    for index in range(len(SERIALS)):
        focal = lenses.uniform(*config.focal)
        focal = np.array([focal, focal * lenses.uniform(*config.aspect)])
        centre = np.array([319.5, 239.5]) + lenses.uniform(*config.offset, 2)
        k1, (p1, p2) = lenses.uniform(*config.radial), lenses.uniform(*config.tangential, 2)
        lens = tuple(map(float, (k1, -0.3 * k1, p1, p2, 0.0))) if config.distorted else ()
        # Other resolutions see the same field: pixel centres lie at whole numbers.
        scale = np.array([width / 640, height / 480])
        (fx, fy), (cx, cy) = focal * scale, (centre + 0.5) * scale - 0.5
        k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        azimuth = np.radians(45 * index + mounts.uniform(-14, 14))
        elevation = np.radians(mounts.uniform(18, 62))
        toward = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
        target = np.array([0, 0, 0.17]) + mounts.normal(0, 0.02, 3)
        eye = target + toward * mounts.uniform(0.55, 1.0)
        forward = _unit(target - eye)
        roll = np.radians(mounts.normal(0, 5))
        right = _unit(np.cross(forward, (0, 0, 1)))
        down = np.cross(forward, right)
        right, down = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
        rotation = np.stack([right, down, forward])
        cameras.append(Camera(k, rotation, -rotation @ eye, height, width, lens))
    return cameras


def sequence_rng(seed: int, subject: int, sequence: int) -> np.random.Generator:
    return np.random.default_rng([seed, _SEQUENCE, subject, sequence])


def picture_rng(seed: int, person: int, sequence: int, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([seed, _PICTURE, person, sequence, *numbers])


def scene_camera(seed: int, scene: int) -> int:
    """The camera that takes the picture of an independent scene."""
    return int(np.random.default_rng([seed, _CHOICE, len(SUBJECTS) + scene]).integers(len(SERIALS)))


def sequence_side(seed: int, subject: int, sequence: int) -> str:
    """Which hand: an even draw, independent of the object."""
    return "right" if np.random.default_rng([seed, _CHOICE, subject, sequence]).random() < 0.5 else "left"


def sequence_class(seed: int, subject: int, sequence: int, sequences: int, classes: list[int]) -> int:
    """The class in the hand. A full set has five sequences an object in order, as DexYCB; a smaller one spreads them."""
    if sequences >= 5 * len(classes):
        return classes[min(sequence // (sequences // len(classes)), len(classes) - 1)]
    order = np.random.default_rng([seed, _CHOICE]).permutation(len(classes))
    return classes[order[(subject * (sequences + 1) + sequence) % len(classes)]]


def move(grasp: Grasp, shape: Shape, hand_vertices: np.ndarray, frames: int, rng: np.random.Generator) -> Motion:
    """A lift and a rotation of hand and object together, after a short reach.

    Args:
        hand_vertices: [V, 3], m: the closed hand in the object's frame; nothing of it may end below the table.
    """
    start = _held_orientation(grasp, rng)
    s = (np.arange(frames) + 0.5) / frames
    reach = 0.15 if frames >= 4 else 0.0
    progress = np.clip((s - reach) / (1 - reach), 0, 1)
    ease = 0.5 - 0.5 * np.cos(np.pi * progress)
    spin = _unit(rng.normal(0, 1, 3)) * np.radians(rng.uniform(25, 80))
    wobble = rng.normal(0, 0.06, 3) * np.sin(2 * np.pi * progress * rng.uniform(0.5, 1.5))[:, None]
    swing = ease[:, None] * spin + wobble * (progress > 0)[:, None]
    rotations = axis_angle_to_matrix(torch.from_numpy(swing)).numpy() @ start
    low, high = np.array([-0.12, -0.12, 0.02]), np.array([0.12, 0.12, 0.22])
    first, last = rng.uniform(low, [0.12, 0.12, 0.10]), rng.uniform(low, high)
    translations = first + ease[:, None] * (last - first)
    together = np.concatenate([shape.mesh()[0], hand_vertices])
    lowest = np.array([(together @ r[2]).min() for r in rotations])
    # Heights are those of the lowest point, made smooth over the sequence by taking the largest lift that any frame needs.
    translations[:, 2] += (-lowest).max() if frames < 12 else -lowest
    letting_go = np.clip(1 - s / reach, 0, 1) if reach else np.zeros(frames)
    offsets = 0.10 * letting_go[:, None] * grasp.retreat
    return Motion(rotations, translations, letting_go**0.8, offsets, np.zeros((frames, 3)))


def _held_orientation(grasp: Grasp, rng: np.random.Generator) -> np.ndarray:
    """A rotation (object to table) that brings the arm in from the person's side and the palm mostly down or sideways."""
    azimuth, elevation = np.radians(rng.uniform(-70, 70)), np.radians(rng.uniform(-5, 55))
    arm = np.array([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    for _ in range(20):
        palm = rng.normal(0, 1, 3)
        palm = _unit(palm - arm * (palm @ arm))
        if palm[2] < 0.55:
            break
    own_arm = grasp.arm
    own_palm = _unit(grasp.palm - own_arm * (grasp.palm @ own_arm))
    own = np.stack([own_arm, own_palm, np.cross(own_arm, own_palm)], 1)
    return np.stack([arm, palm, np.cross(arm, palm)], 1) @ own.T


def clutter(held: int, shapes: dict[int, Shape], radius: float, rng: np.random.Generator) -> list[Clutter]:
    """One to four other objects at rest on the table, clear of a circle of ``radius`` (m) about the middle and of each other."""
    others = [c for c in shapes if c not in (held, NEVER_GRASPED)]
    chosen = rng.permutation(others)[: rng.integers(1, 5)]
    placed, taken = [], []
    for class_id in chosen:
        shape = shapes[int(class_id)]
        side = np.eye(3)
        if rng.random() < 0.4:  # lies on another side
            side = np.roll(side, int(rng.integers(1, 3)), axis=0)
        yaw = rng.uniform(0, 2 * np.pi)
        c, s = np.cos(yaw), np.sin(yaw)
        rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ side
        reach = float(np.hypot(*shape.extent[np.argsort(shape.extent)[1:]]) / 2)
        for _ in range(12):
            angle, far = rng.uniform(0, 2 * np.pi), radius + reach + rng.uniform(0, 0.2)
            spot = np.array([np.cos(angle), np.sin(angle)]) * far
            if all(np.hypot(*(spot - other)) > reach + room for other, room in taken):
                height = -(shape.mesh()[0] @ rotation[2]).min()
                taken.append((spot, reach))
                placed.append(Clutter(int(class_id), rotation, np.array([*spot, height])))
                break
    return placed


def untouched(things: list[Clutter], shapes: dict[int, Shape], moving: np.ndarray) -> list[Clutter]:
    """Those things whose bounding box no point [N, 3] (m) of what moves enters."""
    kept = []
    for thing in things:
        own = np.abs((moving - thing.translation) @ thing.rotation)
        if not (own < shapes[thing.class_id].extent / 2 + 0.005).all(1).any():
            kept.append(thing)
    return kept


def lamp(rng: np.random.Generator) -> Light:
    """A random light: from nearly overhead to slanting, warm to cool, harsh to dull."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(28, 85))
    direction = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    total, share = rng.uniform(0.75, 1.35), rng.uniform(0.3, 0.8)
    warm = rng.normal(0, 0.08)
    tint, sky = np.array([1 + warm, 1, 1 - warm]), np.array([1 - 0.5 * warm, 1, 1 + 0.5 * warm])
    return Light(
        direction.astype(np.float32),
        (total * share * tint).astype(np.float32),
        (total * (1 - share) * sky).astype(np.float32),
        float(rng.uniform(0.01, 0.08)),
    )


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
