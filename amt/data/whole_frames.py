"""Whole frames for a locator: read once, then put together anew for every sample. One hand, two hands or none a picture.

A rendered frame shows one hand. Two hands are two frames side by side of a seam, so that both keep their forearms, or a hand
with its object that was cut out along the segmentation and laid over another frame. Pictures without a hand are backgrounds,
frames whose hand was painted over (the forearm and the object may stay), and the part of a frame beside its hand.

A sample derives from (seed, epoch, index) alone.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from amt.data.backgrounds import PHOTOGRAPHS, read_backgrounds
from amt.data.crops import in_view
from amt.data.errors import BrokenFrame, DataError
from amt.data.layout import HAND_SEGMENT
from amt.data.letterbox import letterbox
from amt.data.reader import Reader
from amt.data.threads import ahead

WIDTH, HEIGHT = 320, 240  # px: in which frames are kept
OBJECT, HAND = 1, 2  # in WholeFrames.marks
EMPTY, TWO = 0.2, 0.3  # shares of samples without a hand and with two or more
MORE, MOST = 0.4, 4  # the share of these that get one more hand, and again; hands a picture
FAR = 0.3  # share of frames that are zoomed in and out by much
SHOWN, IGNORED = 0.5, 0.1  # shares of joints in sight: a hand from the first on, neither hand nor none between the two
HIDDEN = 0.02  # of the box's area is the hand's at least, else the object hides it: neither hand nor none
NOISE = 1 << 20
MADE = 16  # made backgrounds beside photographs


@dataclass(frozen=True)
class WholeFrames:
    """Frames of a set in memory, shrunk to 320 x 240 px."""

    images: np.ndarray  # uint8 [N, 240, 320, 3], RGB
    marks: np.ndarray  # uint8 [N, 240, 320]: HAND, OBJECT in the hand, 0 elsewhere or where no segmentation is known
    joints: np.ndarray  # float64 [N, 21, 2], px
    right: np.ndarray  # bool [N]
    backgrounds: np.ndarray  # uint8 [M, 320, 320, 3]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Sample:
    """A picture and its hands."""

    image: np.ndarray  # uint8 [height, width, 3], RGB
    boxes: np.ndarray  # float64 [M, 4], px: left, top, right, bottom around each hand's joints, also those outside
    right: np.ndarray  # bool [M]
    ignored: np.ndarray  # float64 [K, 4], px: boxes of hands that are neither in the picture nor out of it
    skin: np.ndarray  # uint8 [height, width]: 255 where a hand is seen, as far as the segmentation is known


def read_whole_frames(reader: Reader, most: int, backgrounds: str | None = None) -> WholeFrames:
    """At most so many frames of a subset, spread evenly, read by two threads a core. Frames that cannot be read are left out.

    Args:
        backgrounds: as ``data.augment.backgrounds``.

    Raises:
        DataError: no frame has a labelled hand.
    """
    chosen = np.unique(np.linspace(0, len(reader) - 1, min(most, len(reader))).round().astype(int))
    rows = []
    with ThreadPoolExecutor(2 * len(os.sched_getaffinity(0)), "amt-frames") as pool:
        for row in ahead(pool, 64, lambda index: _read(reader, int(index)), chosen):
            if isinstance(row, BrokenFrame):
                reader.note_broken(row)
            elif row is not None:
                rows.append(row)
    if not rows:
        raise DataError(f"{reader.root}: no frame of {reader.split} {reader.subset} shows a labelled hand")
    images, marks, joints, right = (np.stack(column) for column in zip(*rows))
    return WholeFrames(images, marks, joints, right, read_background_frames(backgrounds))


def read_background_frames(source: str | None = None) -> np.ndarray:
    """Made pictures, and those of the user's folder or scikit-image's photographs."""
    made = read_backgrounds(None, WIDTH).numpy()
    try:
        return np.concatenate([made[:MADE], read_backgrounds(source or PHOTOGRAPHS, WIDTH).numpy()])
    except DataError:
        if source is not None:
            raise
        return made  # scikit-image is not installed


def _read(reader: Reader, index: int) -> tuple | BrokenFrame | None:
    """A frame's image, marks, joints and side; None where its hand is not labelled or out of view."""
    import cv2

    try:
        frame = reader[index]
        if not frame.hand_valid:
            return None
        picture = frame.image()
    except BrokenFrame as error:
        return error
    if not in_view(frame, picture.shape[:2]):
        return None
    image, scale = letterbox(picture, WIDTH, HEIGHT)
    marks = np.zeros((HEIGHT, WIDTH), np.uint8)
    try:
        segment = frame.segment()
    except BrokenFrame:
        segment = np.zeros(picture.shape[:2], np.uint8)
    kept = np.where(segment == HAND_SEGMENT, HAND, 0).astype(np.uint8)
    if frame.sequence.class_id:
        kept[segment == frame.sequence.class_id] = OBJECT
    size = round(scale * kept.shape[1]), round(scale * kept.shape[0])
    marks[: size[1], : size[0]] = cv2.resize(kept, size, interpolation=cv2.INTER_NEAREST)
    return image, marks, (frame.joints_2d.astype(np.float64) + 0.5) * scale - 0.5, frame.sequence.side == "right"


def compose(
    frames: WholeFrames,
    width: int,
    height: int,
    seed: int,
    epoch: int,
    index: int,
    empty: float = EMPTY,
    plain: bool = False,
) -> Sample:
    """The sample ``index`` of an epoch: around frame ``index`` % N, in ``width`` x ``height`` px.

    Args:
        empty: share of samples without a hand; 1: all.
        plain: frames as they are but for their size, without changes of colour: what is scored, not what is learned from.
    """
    rng = np.random.default_rng([seed, epoch, index])
    canvas, kind = _Canvas(frames, width, height, rng, plain), rng.random()
    first = index % len(frames)
    if kind < empty:
        canvas.without_hand(first)
    elif kind < empty + TWO:
        canvas.with_two(first, int(rng.integers(len(frames))))
        while not plain and len(canvas.hands) < MOST and rng.random() < MORE:
            if not canvas.add(int(rng.integers(len(frames))), by_mask=True):
                break
    else:
        canvas.with_one(first)
    return canvas.sample()


class _Canvas:
    """A sample that is being made."""

    def __init__(self, frames: WholeFrames, width: int, height: int, rng: np.random.Generator, plain: bool):
        self.frames, self.size, self.rng, self.plain = frames, np.array((width, height)), rng, plain
        self.image, self.skin = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        self.hands: list[tuple[np.ndarray, bool, np.ndarray]] = []  # joints [21, 2] px, right, joints in sight [21]

    def with_one(self, k: int) -> None:
        self.image, warp, mirrored = self._frame(k)
        self.skin = self._warped(self.frames.marks[k] == HAND, warp)
        self._add(k, warp, mirrored)

    def with_two(self, k: int, other: int) -> None:
        self.with_one(k)
        self.add(other, by_mask=bool(self.rng.random() < 0.4))

    def add(self, k: int, by_mask: bool) -> bool:
        """Another hand, cut out along its segmentation or beyond a seam; False where there is no room for it."""
        by_mask = by_mask and (self.frames.marks[k] == HAND).any()
        boxes = [self._box(joints) for joints, _, _ in self.hands]
        least = -0.3 if by_mask else 0.0
        for _ in range(8):
            image, warp, mirrored = self._frame(k, anywhere=True)
            box = self._box(_moved(self.frames.joints[k], warp))
            apart = [np.maximum(box[:2] - b[2:], b[:2] - box[2:]).max() for b in boxes]  # px, along an axis
            if all(gap > least * (b[2:] - b[:2]).max() + (not by_mask) * 4 for gap, b in zip(apart, boxes)):
                break
        else:
            return False
        marks = self.frames.marks[k]
        cover = self._warped(marks > 0, warp) > 127 if by_mask else self._beyond_seam(boxes[0], box)
        self.image = np.where(cover[..., None], image, self.image)
        self.skin = np.where(cover, self._warped(marks == HAND, warp), self.skin)
        self.hands = [(joints, right, seen & ~self._at(cover, joints)) for joints, right, seen in self.hands]
        self._add(k, warp, mirrored)
        joints, right, seen = self.hands[-1]
        self.hands[-1] = (joints, right, seen & (by_mask | self._at(cover, joints)))
        return True

    def without_hand(self, k: int) -> None:
        kind = self.rng.random()
        if kind < 0.2:
            self.image = self._background()
        elif kind < 0.6 and not self.plain and (self.frames.marks[k] == HAND).any():
            self.image, _, _ = self._frame(k, painted_over(self.frames.images[k], self.frames.marks[k], self.rng))
        else:
            self.image, warp, mirrored = self._frame(k, outside=True)
            self.skin = self._warped(self.frames.marks[k] == HAND, warp)
            self._add(k, warp, mirrored)

    def sample(self) -> Sample:
        boxes, right, ignored = [], [], []
        for joints, is_right, seen in self.hands:
            share = seen.mean()
            if share >= SHOWN:
                boxes.append(self._box(joints))
                right.append(is_right)
            elif share >= IGNORED:
                ignored.append(self._box(joints))
        image = self.image if self.plain else as_a_camera(self.image, self.rng)
        return Sample(image, np.reshape(boxes, (-1, 4)), np.array(right, bool), np.reshape(ignored, (-1, 4)), self.skin)

    def _frame(self, k: int, image: np.ndarray | None = None, anywhere: bool = False, outside: bool = False):
        """Frame k in the canvas's size, moved, turned and zoomed about its hand: uint8 picture, warp [2, 3], mirrored."""
        import cv2

        rng, frames = self.rng, self.frames
        fit = float((self.size / (WIDTH, HEIGHT)).min())
        joints = frames.joints[k]
        middle, reach = (joints.min(0) + joints.max(0)) / 2, float((joints.max(0) - joints.min(0)).max())
        mirrored = bool(rng.random() < 0.5)
        far = (-1.3, 1.3) if rng.random() < FAR else (-0.2, 0.4)
        zoom, angle = fit * 2 ** rng.uniform(*far), np.radians(rng.uniform(-15, 15))
        place = rng.uniform(-0.02, 1.02, 2) * self.size
        if self.plain:
            zoom, angle = fit * 2 ** rng.uniform(-0.2, 0.2), 0.0
        if outside:
            axis, far = int(rng.integers(2)), 0.5 * reach * zoom + rng.uniform(2, 12)
            place[axis] = -far if rng.random() < 0.5 else self.size[axis] + far
        elif not anywhere and (self.plain or rng.random() < 0.75):  # about where the frame has it
            at = (middle + 0.5) * fit - 0.5
            at[0] = self.size[0] - 1 - at[0] if mirrored else at[0]
            place = at + rng.uniform(-0.12, 0.12, 2) * self.size
        linear = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = linear @ np.diag((-1.0 if mirrored else 1.0, 1.0))
        warp = np.column_stack([linear, place - linear @ middle])
        canvas = self._background()
        picture = frames.images[k] if image is None else image
        cv2.warpAffine(picture, warp, self.size.tolist(), canvas, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
        return canvas, warp, mirrored

    def _add(self, k: int, warp: np.ndarray, mirrored: bool) -> None:
        joints, original = _moved(self.frames.joints[k], warp), self.frames.joints[k]
        seen = ((joints > -0.5) & (joints < self.size - 0.5)).all(1)
        seen &= ((original > -0.5) & (original < (WIDTH - 0.5, HEIGHT - 0.5))).all(1)
        marks = self.frames.marks[k]
        area = float((original.max(0) - original.min(0)).prod())
        if marks.any() and (marks == HAND).sum() < HIDDEN * area:
            seen &= np.arange(len(seen)) < SHOWN * len(seen) - 1  # behind the object: neither hand nor none
        self.hands.append((joints, bool(self.frames.right[k]) != mirrored, seen))

    def _background(self) -> np.ndarray:
        """A part of a background picture, or one colour."""
        import cv2

        rng, pictures = self.rng, self.frames.backgrounds
        if rng.random() < 0.15:
            return np.broadcast_to(rng.integers(0, 256, 3, np.uint8), (*self.size[::-1], 3)).copy()
        picture = pictures[int(rng.integers(len(pictures)))]
        across = float(rng.uniform(0.4, 1)) * min(WIDTH, WIDTH * self.size[0] / self.size[1])
        part = np.array((across, across * self.size[1] / self.size[0])).clip(8, WIDTH).astype(int)
        left, top = rng.integers(0, WIDTH - part + 1)
        part = picture[top : top + part[1], left : left + part[0]]
        return cv2.resize(part[:, ::-1] if rng.random() < 0.5 else part, self.size.tolist())

    def _warped(self, mask: np.ndarray, warp: np.ndarray) -> np.ndarray:
        """uint8 [height, width]: 255 where a warp puts the True pixels of a frame."""
        import cv2

        return cv2.warpAffine(mask.astype(np.uint8) * 255, warp, self.size.tolist())

    def _beyond_seam(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """bool [height, width]: the half of the picture, across a line between two boxes, in which the second lies."""
        axis = int((np.maximum(second[:2] - first[2:], first[:2] - second[2:])).argmax())
        forward = second[axis] > first[axis]
        low, high = (first[axis + 2], second[axis]) if forward else (second[axis + 2], first[axis])
        at, slope = low + (high - low) * self.rng.uniform(0.2, 0.8), self.rng.uniform(-1, 1) * (high - low) / 3
        y, x = np.mgrid[: self.size[1], : self.size[0]].astype(np.float32)
        along, across = (x, y) if axis == 0 else (y, x)
        middle = (first[1 - axis] + first[3 - axis] + second[1 - axis] + second[3 - axis]) / 4
        reach = max(first[3 - axis] - first[1 - axis], second[3 - axis] - second[1 - axis], 1.0)
        beyond = along > at + slope * (across - middle) / reach
        return beyond if forward else ~beyond

    def _at(self, cover: np.ndarray, joints: np.ndarray) -> np.ndarray:
        """bool [21]: where joints lie upon a mask."""
        x, y = np.clip(joints.round().astype(int), 0, self.size - 1).T
        return cover[y, x]

    @staticmethod
    def _box(joints: np.ndarray) -> np.ndarray:
        return np.concatenate([joints.min(0), joints.max(0)])


def _moved(joints: np.ndarray, warp: np.ndarray) -> np.ndarray:
    return joints @ warp[:, :2].T + warp[:, 2]


def painted_over(image: np.ndarray, marks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A frame with smooth colour of the surroundings where its hand was, and in half of them its object."""
    import cv2

    hidden = (marks == HAND) if rng.random() < 0.5 else marks > 0
    hidden = cv2.dilate(hidden.astype(np.uint8), np.ones((7, 7), np.uint8))
    kept = (1 - hidden).astype(np.float32)
    small = (WIDTH // 4, HEIGHT // 4)
    weight = cv2.resize(kept, small, interpolation=cv2.INTER_AREA)
    colour = cv2.resize(image * kept[..., None], small, interpolation=cv2.INTER_AREA)
    filled, total = np.zeros_like(colour), np.zeros_like(weight)
    for sigma, share in ((2, 1.0), (5, 0.05), (15, 0.002)):  # from near where there is something near
        filled += share * cv2.GaussianBlur(colour, (0, 0), sigma)
        total += share * cv2.GaussianBlur(weight, (0, 0), sigma)
    filled = cv2.resize(filled / np.maximum(total, 1e-6)[..., None], (WIDTH, HEIGHT))
    soft = cv2.GaussianBlur(hidden.astype(np.float32), (0, 0), 1.0)[..., None]
    return np.clip(image + soft * (filled - image), 0, 255).astype(np.uint8)


def as_a_camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, white balance, blur, noise and lost colour of another camera."""
    import cv2

    level = np.arange(256, dtype=np.float32)[:, None] / 255
    gain = 2 ** (rng.uniform(-0.25, 0.25) + rng.uniform(-0.06, 0.06, 3))
    curve = (level * gain) ** (2 ** rng.uniform(-0.2, 0.2))
    curve = (curve - 0.45) * (1 + rng.uniform(-0.2, 0.2)) + 0.45
    image = cv2.LUT(image, np.clip(255 * curve + 0.5, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.05:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    if rng.random() < 0.5:
        start, share = int(rng.integers(0, NOISE - image.size)), rng.uniform(0, 0.2)
        grain = _noise()[start : start + image.size].reshape(image.shape)
        image = cv2.addWeighted(image, 1, grain, share, -128 * share)
    return image


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """uint8: normal numbers about 128, 32 wide."""
    return np.clip(np.random.default_rng(11).normal(128, 32, NOISE), 0, 255).astype(np.uint8)
