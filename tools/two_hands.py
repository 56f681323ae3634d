"""A rendered video of two hands, each with its object, by one camera: what several hands and tracking are measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from amt.data.synthetic import scene
from amt.data.synthetic.config import SequenceSpec, SetConfig
from amt.data.synthetic.objects import load_shapes
from amt.data.synthetic.render import Camera
from amt.data.synthetic.sequence import Sequence

APART = 0.28  # m, between the places at which the two hands work
SUBJECT = 9  # of the layout: split s1 tests on this person
SIDES = ("right", "left")


@dataclass(frozen=True)
class TwoHands:
    """The frames of a video and the truth of both hands: the right one, then the left one."""

    images: np.ndarray  # uint8 [T, 480, 640, 3], RGB
    segments: np.ndarray  # uint8 [T, 480, 640]: 255 where a hand is seen
    joints: np.ndarray  # float64 [T, 2, 21, 3], m, the camera's frame
    intrinsics: np.ndarray  # float64 [3, 3], px

    def joints_2d(self) -> np.ndarray:
        """float64 [T, 2, 21, 2], px."""
        seen = self.joints @ self.intrinsics.T
        return seen[..., :2] / seen[..., 2:]


def two_hands(seed: int, frames: int, lift: bool = True) -> TwoHands:
    """Renders a person's two hands that grasp and lift at the same time (``lift``, at least 36 frames) or move what they hold."""
    config = SetConfig(seed=seed, lift=lift, frames=max(frames, 36))
    shapes, rig = load_shapes(()), scene.rig(seed, SUBJECT, config.camera)
    right, left = (_sequence(side, config, shapes, rig, frames) for side in SIDES)
    number = int(np.argmax([_share_in_view(camera, right, left) for camera in rig]))
    camera = rig[number]
    for sequence, sign in ((right, 0.5), (left, -0.5)):
        _shift(sequence, sign * _along(camera))
    # the right hand's table and light; what stood upon both tables is left out, but for what the objects lie on
    own = right.moving
    right.moving = lambda frame: [*own(frame), *left.moving(frame)]
    right.still += left.still
    right.cameras, right.numbers, right.shots, right.occluders = [camera], (number,), [right.shots[number]], [None]
    pictures = [picture for _, _, picture, _ in right.render()]
    joints = np.stack([sequence.joints @ camera.rotation.T + camera.translation for sequence in (right, left)], 1)
    images, segments = (np.stack([getattr(p, name) for p in pictures]) for name in ("image", "segment"))
    return TwoHands(images, segments, joints, camera.intrinsics)


def _sequence(side: str, config: SetConfig, shapes: dict, rig: list[Camera], frames: int) -> Sequence:
    """The first sequence of the person with this hand."""
    number = next(k for k in range(100) if scene.sequence_side(config.seed, SUBJECT, k) == side)
    spec = SequenceSpec(config.seed, SUBJECT, number, 100, frames, lift=config.lift)
    return Sequence(spec, shapes, config.hand(side), rig, tuple(range(len(rig))), config.camera, *config.pictures())


def _along(camera: Camera) -> np.ndarray:
    """float64 [3], m: :data:`APART` along the table, to the right of the camera's picture."""
    across = camera.rotation[0] * (1, 1, 0)
    return APART * across / np.linalg.norm(across)


def _share_in_view(camera: Camera, right: Sequence, left: Sequence) -> float:
    pixels = np.concatenate(
        [
            camera.pixels((sequence.joints + sign * _along(camera)).reshape(-1, 3))
            for sequence, sign in ((right, 0.5), (left, -0.5))
        ]
    )
    return float(((pixels > 8) & (pixels < (camera.width - 9, camera.height - 9))).all(1).mean())


def _shift(sequence: Sequence, by: np.ndarray) -> None:
    """Moves hand, arm and held object, and what the object first lies on; the rest of the table's things go."""
    sequence.vertices, sequence.joints = sequence.vertices + by, sequence.joints + by
    sequence.object_poses = sequence.object_poses.copy()
    sequence.object_poses[:, sequence.held, :, 3] += by
    under = sequence.still[len(sequence.clutter) :]
    sequence.still = [replace(body, vertices=body.vertices + by) for body in under]


def triples(found: np.ndarray) -> Iterator[slice]:
    """Three frames in a row in which a hand was found, bool [T]."""
    for k in range(len(found) - 2):
        if found[k : k + 3].all():
            yield slice(k, k + 3)
