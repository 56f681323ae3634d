"""Rendered scenes in memory, for a locator alone: no labels beyond joints, side and who covers which pixel.

Each scene has a person, a grasp, an object, a table and clutter of its own, and is seen by a few cameras of its rig. The first
camera also takes a picture without the person. Nothing is searched for but the grasp: contact and visibility cost more than
the pictures. Scenes come in files of :data:`CHUNK`, so that a run that was ended goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from amt.data.layout import HAND_SEGMENT
from amt.data.letterbox import letterbox
from amt.data.synthetic import appearance, scene
from amt.data.synthetic.cameras import DEFAULT
from amt.data.synthetic.config import SequenceSpec, SetConfig
from amt.data.synthetic.objects import Shape, load_shapes
from amt.data.synthetic.render import BodyTree, Camera, Picture, draw, static_layer
from amt.data.synthetic.sequence import Sequence
from amt.data.synthetic.table import lit_table, shade
from amt.data.whole_frames import HAND, HEIGHT, OBJECT, WIDTH, WholeFrames

ARM = 3  # in WholeFrames.marks, beside HAND and OBJECT: forearm and sleeve
CHUNK = 50  # scenes of a file
ARM_SEGMENT = 254
QUALITY = 96  # of the JPEG files in which pictures are kept
IN_SIGHT, OF_BOX = 0.5, 0.02  # least share of joints in the picture, and of the box's area that the hand covers
MOSTLY_HIDDEN = 0.25  # share of the views, of which the hand covers least of its box


@dataclass(frozen=True)
class Scenes:
    """Views of rendered scenes, 320 x 240 px."""

    images: np.ndarray  # uint8 [N, 240, 320, 3], RGB
    marks: np.ndarray  # uint8 [N, 240, 320]: HAND, OBJECT in the hand, ARM; 0 elsewhere
    joints: np.ndarray  # float64 [N, 21, 2], px
    depth: np.ndarray  # float64 [N, 21], m
    right: np.ndarray  # bool [N]
    empty: np.ndarray  # uint8 [M, 320, 320, 3]: scenes without their person

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def hidden(self) -> np.ndarray:
        """int64: the views whose hand is mostly behind something, and is a hand to be found all the same."""
        covered = np.array([(marks == HAND).sum() for marks in self.marks]) / np.ptp(self.joints, 1).prod(1)
        in_sight = ((self.joints > -0.5) & (self.joints < (WIDTH - 0.5, HEIGHT - 0.5))).all(2).mean(1)
        found = np.flatnonzero((covered >= OF_BOX) & (in_sight >= IN_SIGHT))
        return found[np.argsort(covered[found])[: int(MOSTLY_HIDDEN * len(found))]]

    def frames(self, backgrounds: np.ndarray) -> WholeFrames:
        """For :func:`amt.data.whole_frames.compose`; scenes without a person stand among the backgrounds."""
        behind = np.concatenate([backgrounds, self.empty[:500]])
        return WholeFrames(self.images, self.marks, self.joints, self.right, behind)


def render_scenes(folder: Path, seed: int, count: int, views: int, occluded: float = DEFAULT.occluded) -> Iterator[int]:
    """Renders what is missing of ``count`` scenes into files of ``folder``; yields the number of scenes done after each.

    Args:
        views: cameras of a scene, 1-8.
        occluded: share of cameras with something between them and the hand.
    """
    config = SetConfig(seed=seed, independent=count, camera=replace(DEFAULT, occluded=occluded))
    shapes, hands = load_shapes(()), {side: config.hand(side) for side in ("left", "right")}
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, CHUNK):
        numbers, path = range(start, min(start + CHUNK, count)), folder / f"{start:06d}.npz"
        if not path.is_file():
            rows, empty = [], []
            for number in numbers:
                _add_scene(rows, empty, config, number, views, shapes, hands)
            part = path.with_name(f".part-{path.name}")
            _write(part, rows, empty)
            os.replace(part, path)
        yield numbers[-1] + 1


def read_scenes(folder: Path) -> Scenes:
    """All scenes that lie in a folder."""
    import cv2

    columns, empty = [], []
    for path in sorted(folder.glob("[0-9]*.npz")):
        with np.load(path) as file:
            pictures, without = (_unpacked(file[name], file[f"{name}_at"], cv2) for name in ("jpeg", "empty"))
            columns.append([np.stack(pictures), *(file[name] for name in ("marks", "joints", "depth", "right"))])
            empty += without
    return Scenes(*(np.concatenate(column) for column in zip(*columns)), np.stack(empty))


def _add_scene(
    rows: list, empty: list, config: SetConfig, number: int, views: int, shapes: dict[int, Shape], hands
) -> None:
    """Adds the views of a scene in which a joint lies within the picture."""
    import cv2

    spec = SequenceSpec(config.seed, 0, number, 0, 1, number)
    side = scene.sequence_side(config.seed, 0, number)
    rig = scene.rig(config.seed, spec.person, config.camera)
    chosen = tuple(np.random.default_rng([config.seed, number]).choice(len(rig), views, replace=False).tolist())
    sequence = _Scene(spec, shapes, hands[side], [rig[k] for k in chosen], chosen, config.camera, *config.pictures())
    held = sequence.class_ids[sequence.held]
    for camera, with_person, picture in sequence.views():
        if not with_person:
            beside = (camera.width - camera.height) // 2
            square = picture.image[:, beside : beside + camera.height]
            empty.append(cv2.resize(square, (WIDTH, WIDTH), interpolation=cv2.INTER_AREA))
            continue
        pixels, size = camera.pixels(sequence.joints[0]), (camera.width, camera.height)
        if not ((pixels > -0.5) & (pixels < np.array(size) - 0.5)).all(1).any():
            continue
        image, scale = letterbox(picture.image, WIDTH, HEIGHT)
        marks = np.zeros(picture.segment.shape, np.uint8)
        for segment, mark in ((held, OBJECT), (ARM_SEGMENT, ARM), (HAND_SEGMENT, HAND)):
            marks[picture.segment == segment] = mark
        marks = cv2.resize(marks, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
        depth = (sequence.joints[0] @ camera.rotation.T + camera.translation)[:, 2]
        rows.append((image, marks, (pixels + 0.5) * scale - 0.5, depth, side == "right"))


class _Scene(Sequence):
    """A sequence of one frame, whose forearm and sleeve have a label."""

    def _find_contact(self, shape, distance) -> None:
        pass

    def moving(self, frame: int) -> list:
        hand, forearm, sleeve, held = super().moving(frame)
        return [hand, replace(forearm, segment=ARM_SEGMENT), replace(sleeve, segment=ARM_SEGMENT), held]

    def views(self) -> Iterator[tuple[Camera, bool, Picture]]:
        """Each camera's picture, and the first one's without the person: (camera, whether the person is there, picture)."""
        light, still, person = self.light, BodyTree(self.still), BodyTree(self.moving(0))
        top = lit_table(appearance.table_top(self.rng, self.surfaces), still, light)
        shadow, brightness = shade(person, light), float((light.colour + light.ambient).mean())
        for index, (camera, shot, hidden) in enumerate(zip(self.cameras, self.shots, self.occluders)):
            draws = self._stream(self.numbers[index], 0)
            size = camera.height, camera.width
            around = appearance.backdrop(draws, *size, self.scenes, brightness, float(draws.uniform(0.5, 4.0)))
            layer = static_layer(camera, still, light, top, self.table_size, around, hidden, shot, draws)
            joints, step = self.joints[0], 0.001 * self.velocities[0]
            motion = (camera.pixels(joints + step) - camera.pixels(joints)).mean(0) / 0.001
            draws = self._stream(self.numbers[index], 1, 0)
            yield camera, True, draw(camera, person, layer, light, shadow, shot, motion, draws)
            if index == 0:
                yield (
                    camera,
                    False,
                    draw(camera, BodyTree([]), layer, light, np.full_like(shadow, 255), shot, motion, draws),
                )


def _write(path: Path, rows: list, empty: list) -> None:
    images, marks, joints, depth, right = zip(*rows)
    arrays = {"marks": np.stack(marks), "joints": np.stack(joints), "depth": np.stack(depth), "right": np.array(right)}
    for name, pictures in (("jpeg", images), ("empty", empty)):
        files = [_jpeg(picture) for picture in pictures]
        arrays |= {name: np.concatenate(files), f"{name}_at": np.cumsum([0, *map(len, files)])}
    np.savez_compressed(path, **arrays)


def _jpeg(image: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].ravel()


def _unpacked(data: np.ndarray, at: np.ndarray, cv2) -> list[np.ndarray]:
    return [cv2.cvtColor(cv2.imdecode(data[a:b], 1), cv2.COLOR_BGR2RGB) for a, b in pairwise(at)]
