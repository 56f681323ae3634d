"""MediaPipe Hands as a finder of hands: palm detection and hand landmarks, which have seen real photographs.

The models are Google's (Apache-2.0). They lie in the wheels of mediapipe 0.10.14 and 0.10.21; newer ones hold none. Nothing of
the package is run: the two .tflite files are read out of the wheel that a user has, and run by ai-edge-litert. Anchors, decoding
and the turned crop follow the published graphs (palm_detection_gpu, hand_landmark_cpu; Zhang et al., "MediaPipe Hands", 2020).
"""

from __future__ import annotations

import importlib.util
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amt.data.crops import square_around
from amt.errors import UserError
from amt.locate import Located
from amt.metrics.detections import box_iou

FILES = ("palm_detection_full.tflite", "hand_landmark_full.tflite")
VERSION = "0.10.21"
PALM, CROP = 192, 224  # px: the two models' pictures
OVERLAP = 0.3  # of palms that are one
WRIST, MIDDLE = 0, 2  # of a palm's seven keypoints: the hand's axis runs from one to the other
SCALE, SHIFT = 2.6, -0.5  # of the palm's box to the hand's, and along its axis, in sides
SAME_HAND = 0.5  # overlap of two hands' boxes


class MediaPipeError(UserError, ValueError):
    """MediaPipe's models cannot be had or run; the message says what to install or give."""


class MediaPipeLocator:
    """Finds hands by MediaPipe's models.

    Args:
        source: the wheel of mediapipe 0.10.21, or a folder that holds its .tflite files somewhere; None: where mediapipe is
            installed.
        box_scale: side of the square over the longest side of the tight box around the landmarks.
        threshold: least score of a palm, and of a hand in the crop around it.

    Raises:
        MediaPipeError: the files or the package ai-edge-litert cannot be had.
    """

    def __init__(self, source: str | Path | None = None, box_scale: float = 1.5, threshold: float = 0.5):
        palm, landmarks = read_models(source)
        self._palm, self._landmarks = _Model(palm, FILES[0], (PALM, PALM)), _Model(landmarks, FILES[1], (CROP, CROP))
        self.box_scale, self.threshold = box_scale, threshold
        self._anchors = anchors()
        self._lock = threading.Lock()  # an interpreter runs one picture at a time

    def locate_many(self, images: Sequence[np.ndarray]) -> list[list[Located]]:
        return [self.locate(image) for image in images]

    def locate(self, image: np.ndarray) -> list[Located]:
        """The hands of uint8 [H, W, 3] RGB, the surest first."""
        return self.hands(image, self.palms(image))

    def hands(self, image: np.ndarray, palms: np.ndarray) -> list[Located]:
        """The hands around palms [N, 9, 2] (px), by the second model alone."""
        with self._lock:
            hands = [self._hand(image, palm) for palm in palms]
        hands = sorted((hand for hand in hands if hand is not None), key=lambda hand: -hand.score)
        kept: list[Located] = []
        for hand in hands:
            if not kept or box_iou(hand.tight, np.stack([k.tight for k in kept])).max() < SAME_HAND:
                kept.append(hand)
        return kept

    def palms(self, image: np.ndarray) -> np.ndarray:
        """float64 [N, 9, 2], px: the box's corners and seven keypoints of each palm, the surest first."""
        with self._lock:
            return self._palms(image)

    def _palms(self, image: np.ndarray) -> np.ndarray:
        import cv2

        height, width = image.shape[:2]
        scale = PALM / max(height, width)
        left, top = (PALM - scale * width) / 2, (PALM - scale * height) / 2
        warp = np.array([[scale, 0, left + 0.5 * scale - 0.5], [0, scale, top + 0.5 * scale - 0.5]])
        if scale < 0.5:  # nothing aliases
            factor = int(1 / scale)
            image = cv2.resize(image, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA)
            ratio = np.array([width / image.shape[1], height / image.shape[0]])
            warp = np.column_stack([warp[:, :2] * ratio, warp[:, 2] + warp[:, :2] @ (0.5 * ratio - 0.5)])
        boxes, logits = self._palm(cv2.warpAffine(image, warp, (PALM, PALM)))
        scores = 1 / (1 + np.exp(-np.clip(logits.reshape(-1).astype(np.float64), -100, 100)))
        likely = scores >= self.threshold
        palms = decode(boxes.reshape(len(scores), -1)[likely], self._anchors[likely])
        palms, _ = merged(palms, scores[likely])
        return ((palms * PALM - (left, top)) / scale) - 0.5

    def _hand(self, image: np.ndarray, palm: np.ndarray) -> Located | None:
        """The hand around a palm [9, 2] (px); None where the crop shows none."""
        import cv2

        warp = hand_warp(palm)
        landmarks, presence, handedness = self._landmarks(cv2.warpAffine(image, warp, (CROP, CROP)))[:3]
        score = float(presence.reshape(-1)[0])
        if not score >= self.threshold:
            return None
        inverse = cv2.invertAffineTransform(warp)
        joints = landmarks.reshape(21, 3)[:, :2].astype(np.float64) @ inverse[:, :2].T + inverse[:, 2]
        # The probability of the label "Left", meant for pictures that a selfie camera has mirrored: a right hand in others.
        right = float(handedness.reshape(-1)[0])
        return Located(
            box=square_around(joints, self.box_scale),
            side="right" if right >= 0.5 else "left",
            score=score,
            side_score=max(right, 1 - right),
            tight=np.concatenate([joints.min(0), joints.max(0)]),
        )


def read_models(source: str | Path | None) -> tuple[bytes, bytes]:
    """The files of palm detection and hand landmarks. Raises MediaPipeError."""
    remedy = f"give infer.mediapipe=FILE, the wheel that `pip download mediapipe=={VERSION} --no-deps` brings"
    if source is None:
        found = importlib.util.find_spec("mediapipe")
        if found is None or not found.submodule_search_locations:
            raise MediaPipeError(f"MediaPipe's models are not here: {remedy}")
        source = found.submodule_search_locations[0]
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            places = {name: next(iter(sorted(path.rglob(name))), None) for name in FILES}
            data = {name: place.read_bytes() for name, place in places.items() if place is not None}
        else:
            with zipfile.ZipFile(path) as wheel:
                members = {name.rpartition("/")[2]: name for name in wheel.namelist()}
                data = {name: wheel.read(members[name]) for name in FILES if name in members}
    except FileNotFoundError:
        raise MediaPipeError(f"{path}: no such file; {remedy}") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise MediaPipeError(f"{path}: is not a wheel that can be read ({error}); {remedy}") from error
    missing = [name for name in FILES if name not in data]
    if missing:
        raise MediaPipeError(f"{path}: holds no {missing[0]}, as mediapipe newer than {VERSION}; {remedy}")
    return data[FILES[0]], data[FILES[1]]


class _Model:
    """A .tflite model on one thread; called with a picture, it gives its outputs in order."""

    def __init__(self, data: bytes, name: str, size: tuple[int, int]):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise MediaPipeError(
                "MediaPipe's models are run by ai-edge-litert, which is not installed; pip install -e '.[mediapipe]'"
            ) from error
        try:
            self.interpreter = Interpreter(model_content=data, num_threads=1)
            self.interpreter.allocate_tensors()
            self.input = self.interpreter.get_input_details()[0]
            self.outputs = [detail["index"] for detail in self.interpreter.get_output_details()]
        except (ValueError, RuntimeError) as error:
            raise MediaPipeError(
                f"{name} cannot be run ({' '.join(str(error).split())[:200]}); take it from the wheel anew"
            ) from error
        if list(self.input["shape"]) != [1, *size, 3]:
            raise MediaPipeError(f"{name}: takes {list(self.input['shape'])}, not a picture of {size[0]} px")

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        self.interpreter.set_tensor(self.input["index"], (picture[None] / np.float32(255)).astype(np.float32))
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(index).copy() for index in self.outputs]


def anchors() -> np.ndarray:
    """float64 [2016, 2]: middles of palm detection's anchors, 0-1: two a cell of 24 x 24, then six a cell of 12 x 12."""
    rows = []
    for cells, count in ((PALM // 8, 2), (PALM // 16, 6)):
        y, x = np.mgrid[:cells, :cells]
        rows.append(np.repeat((np.stack([x, y], -1).reshape(-1, 2) + 0.5) / cells, count, 0))
    return np.concatenate(rows)


def decode(raw: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """float64 [N, 9, 2], 0-1: left top, right bottom and seven keypoints of raw answers [N, 18] at anchors [N, 2]."""
    points = raw.astype(np.float64).reshape(len(raw), 9, 2) / PALM  # middle, size, keypoints
    middle, half = points[:, 0] + middles, points[:, 1] / 2
    return np.concatenate([(middle - half)[:, None], (middle + half)[:, None], points[:, 2:] + middles[:, None]], 1)


def merged(palms: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Palms [N, 9, 2] and scores, with those that overlap brought to their mean, weighted by score (BlazeFace's suppression)."""
    left, kept, sure = np.argsort(-scores, kind="stable"), [], []
    while len(left):
        near = box_iou(palms[left[:1], :2].reshape(-1, 4), palms[left, :2].reshape(-1, 4))[0] > OVERLAP
        near[0] = True
        group = left[near]
        weights = scores[group] / scores[group].sum()
        kept.append((weights[:, None, None] * palms[group]).sum(0))
        sure.append(scores[left[0]])
        left = left[~near]
    return np.array(kept).reshape(-1, 9, 2), np.array(sure)


def hand_warp(palm: np.ndarray) -> np.ndarray:
    """float64 [2, 3]: from px of the picture to the crop of 224 px in which the hand of a palm [9, 2] stands upright."""
    low, high, axis = palm[0], palm[1], palm[2 + MIDDLE] - palm[2 + WRIST]
    angle = np.pi / 2 - np.arctan2(-axis[1], axis[0])
    c, s = np.cos(angle), np.sin(angle)
    turned = np.array([[c, -s], [s, c]])  # the crop's axes in the picture, as columns
    side = SCALE * float((high - low).max())
    middle = (low + high) / 2 + turned @ np.array([0, SHIFT * float((high - low)[1])])
    linear = turned.T * (CROP / side)
    return np.column_stack([linear, (CROP - 1) / 2 - linear @ middle])
