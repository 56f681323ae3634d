"""What the verifier learns from: crops about where a first stage may propose a hand, and about where it may be wrong.

Most are at hands, moved and zoomed as proposals are wrong; in some a second hand is laid beside the first, in some the
surroundings are others. The rest shows hands from too far off, the rest of scenes, arms and objects whose hand was painted
over, and pictures without a person. Every second crop is mirrored, and its side is then the other. What the first stage takes
for hands in the pictures that it learns from, and is none, comes on top (:func:`wrong_proposals`): chance alone does not find
what is mistaken for a hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from amt.data.crops import cut, square_around
from amt.data.whole_frames import HAND, HEIGHT, WIDTH, as_a_camera, painted_over
from amt.hand.tensors import TensorFields
from amt.metrics.detections import box_iou
from amt.model.verifier import JOINTS, SCALE, SIZE, UNIT
from amt.train.locator.bake.scenes import ARM, IN_SIGHT, OF_BOX, Scenes

EMPTY, AT_HAND, NEAR_MISS, ELSEWHERE = 0.04, 0.84, 0.92, 0.96  # shares, summed up; the rest has its hand painted over
HIDDEN = 0.3  # share of the crops at hands that come from Scenes.hidden: most hands that are missed are behind objects
OTHER_SURROUNDINGS, OTHER_HAND, COARSE = 0.2, 0.16, 0.12  # shares
SAME, OTHER = (
    (0.45, 0.85),
    (0.75, 1.3),
)  # a box is the hand's up to the first pair, not beyond the second: shift, log2 of zoom
CELLS = SIZE // 8


@dataclass(frozen=True)
class CropTargets(TensorFields):
    """For B crops."""

    hand: Tensor  # int64 [B]: 1, 0, or -1 where nobody says
    known: Tensor  # float32 [B]: 1 where the fields below are known but skin
    right: Tensor  # float32 [B]
    box: Tensor  # float32 [B, 4], as in amt.model.verifier.Verdict, as all that follows
    joints: Tensor  # float32 [B, 21, 2]
    depth: Tensor  # float32 [B, 21], dm
    skin: Tensor  # float32 [B, 10, 10]: share of the cell that is a hand's; -1 where it is not known


NOTHING = (
    0,
    np.float32(0),
    np.float32(0),
    np.zeros(4, np.float32),
    np.zeros((JOINTS, 2), np.float32),
    np.zeros(JOINTS, np.float32),
    np.zeros((CELLS, CELLS), np.float32),
)


def make_crop(scenes: Scenes, photographs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple]:
    """A crop, uint8 [80, 80, 3], and a row of :class:`CropTargets`."""
    kind = rng.random()
    if kind < EMPTY:
        source = scenes.empty if rng.random() < 0.6 else photographs
        picture = source[rng.integers(len(source))]
        side, angle = 2 ** rng.uniform(np.log2(24), np.log2(300)), rng.uniform(-np.pi, np.pi)
        warp = _warp(rng.uniform(0, picture.shape[0], 2), side, angle, rng.random() < 0.5)
        return as_a_camera(cut(picture, warp, SIZE), rng), NOTHING
    k = int(rng.integers(len(scenes)))
    if kind < AT_HAND and len(scenes.hidden) and rng.random() < HIDDEN:
        k = int(scenes.hidden[rng.integers(len(scenes.hidden))])
    image, marks, joints = scenes.images[k], scenes.marks[k], scenes.joints[k]
    low, high = joints.min(0), joints.max(0)
    longest, middle = float((high - low).max()), (low + high) / 2
    if kind < AT_HAND:
        spread = 0.07 if rng.random() < 0.5 else 0.25  # as for the last look, as for the first
        shift = np.clip(rng.normal(0, spread, 2), -0.55, 0.55) * longest
        zoom = np.clip(rng.normal(0, 2 * spread), -0.95, 0.95)
    elif kind < NEAR_MISS:
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.1) * longest
        shift, zoom = far * np.array((np.cos(angle), np.sin(angle))), rng.uniform(-1.5, 1.5)
    elif kind < ELSEWHERE:
        shift, zoom = rng.uniform((0, 0), (WIDTH, HEIGHT)) - middle, rng.uniform(-1.5, 1.5)
    else:
        image, shift, zoom = painted_over(image, marks, rng), rng.normal(0, 0.3, 2) * longest, rng.uniform(-0.6, 0.6)
    mirrored = bool(rng.random() < 0.5)
    warp = _warp(middle + shift, SCALE * longest * 2**zoom, rng.normal(0, 0.25), mirrored)
    covered = 0.0
    if kind < NEAR_MISS and rng.random() < OTHER_SURROUNDINGS and (marks == ARM).any():
        image = _elsewhere(image, marks, scenes.empty if rng.random() < 0.5 else photographs, rng)
    if kind < AT_HAND and rng.random() < OTHER_HAND:
        image, covered = _beside(scenes, image, joints, middle, longest, rng)
    crop = as_a_camera(cut(image, warp, SIZE), rng)
    if rng.random() < COARSE:
        crop = _coarser(crop, rng)
    if kind >= ELSEWHERE:
        return crop, NOTHING
    return crop, _targets(scenes, k, warp, mirrored, covered)


def wrong_proposals(image: np.ndarray, proposals: np.ndarray, hands: np.ndarray, most: int) -> list[np.ndarray]:
    """Crops, uint8 [80, 80, 3], of the surest proposals that are at no hand.

    Args:
        proposals: [N, 4], px of the picture, the surest first; hands: [M, 4], those half in sight included.
    """
    wrong = proposals[(box_iou(proposals, hands) < 0.1).all(1)] if len(proposals) else proposals
    squares = (square_around(box.reshape(2, 2), SCALE) for box in wrong[:most])
    return [cut(image, _warp(square[:2], square[2], 0.0, False), SIZE) for square in squares]


def _targets(scenes: Scenes, k: int, warp: np.ndarray, mirrored: bool, covered: float) -> tuple:
    """Args: covered: share of the joints that another hand hides."""
    import cv2

    joints, marks, depth = scenes.joints[k], scenes.marks[k], scenes.depth[k]
    places = joints @ warp[:, :2].T + warp[:, 2]
    low, high = places.min(0), places.max(0)
    longest, middle = float((high - low).max()), (low + high) / 2
    shift, zoom = float(np.abs(middle - (SIZE - 1) / 2).max()) / longest, abs(np.log2(longest / UNIT))
    hand = 1 if shift < SAME[0] and zoom < SAME[1] else 0 if shift > OTHER[0] or zoom > OTHER[1] else -1
    in_sight = ((joints > -0.5) & (joints < (WIDTH - 0.5, HEIGHT - 0.5))).all(1).mean()
    area, own = float((joints.max(0) - joints.min(0)).prod()), marks == HAND
    if hand == 1 and (in_sight < IN_SIGHT or covered > 0.5 or own.sum() < OF_BOX * area):
        hand = -1
    skin = np.full((CELLS, CELLS), -1, np.float32)
    if covered == 0:
        seen = cv2.warpAffine(own.astype(np.uint8) * 255, warp, (SIZE, SIZE))
        skin = seen.reshape(CELLS, 8, CELLS, 8).mean((1, 3), dtype=np.float32) / 255
    box = np.concatenate([(middle - (SIZE - 1) / 2) / UNIT, np.log(np.maximum(high - low, 2) / UNIT)])
    return (
        hand,
        np.float32(hand == 1),
        np.float32(bool(scenes.right[k]) != mirrored),
        box.astype(np.float32),
        ((places + 0.5) / SIZE * 2 - 1).astype(np.float32),
        (10 * (depth - depth.mean())).astype(np.float32),
        skin,
    )


def _warp(middle: np.ndarray, side: float, angle: float, mirrored: bool) -> np.ndarray:
    """float64 [2, 3]: from a picture to the crop of a square of it, rotated by ``angle`` (rad)."""
    c, s = np.cos(angle), np.sin(angle)
    linear = SIZE / side * np.array([[c, -s], [s, c]]) @ np.diag((-1.0 if mirrored else 1.0, 1.0))
    return np.column_stack([linear, (SIZE - 1) / 2 - linear @ middle])


def _elsewhere(image: np.ndarray, marks: np.ndarray, pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hand, arm and object before another picture."""
    import cv2

    picture, top = pictures[rng.integers(len(pictures))], int(rng.integers(0, WIDTH - HEIGHT + 1))
    cover = cv2.GaussianBlur((marks > 0).astype(np.float32), (0, 0), 0.7)[..., None]
    return (image * cover + picture[top : top + HEIGHT] * (1 - cover)).astype(np.uint8)


def _beside(
    scenes: Scenes, image: np.ndarray, joints: np.ndarray, middle, longest: float, rng
) -> tuple[np.ndarray, float]:
    """Another hand over the picture, next to the first; and the share of the first one's joints that it hides."""
    import cv2

    k = int(rng.integers(len(scenes)))
    low, high = scenes.joints[k].min(0), scenes.joints[k].max(0)
    zoom = longest / float((high - low).max()) * 2 ** rng.uniform(-0.4, 0.4)
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.3) * longest
    linear = _warp(np.zeros(2), SIZE / zoom, rng.normal(0, 0.5), rng.random() < 0.5)[:, :2]
    place = middle + far * np.array((np.cos(angle), np.sin(angle)))
    warp = np.column_stack([linear, place - linear @ ((low + high) / 2)])
    cover = cv2.warpAffine((scenes.marks[k] > 0).astype(np.uint8) * 255, warp, (WIDTH, HEIGHT))[..., None] / 255.0
    image = (cv2.warpAffine(scenes.images[k], warp, (WIDTH, HEIGHT)) * cover + image * (1 - cover)).astype(np.uint8)
    x, y = np.clip(joints.round().astype(int), 0, (WIDTH - 1, HEIGHT - 1)).T
    return image, float((cover[y, x, 0] > 0.5).mean())


def _coarser(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As of a small hand, enlarged."""
    import cv2

    size = int(SIZE * rng.uniform(0.25, 0.8))
    return cv2.resize(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA), (SIZE, SIZE))
