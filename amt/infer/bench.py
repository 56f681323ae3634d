"""``--bench FOLDER``: compares checkpoints and locators on a user's own pictures, which have no labels.

Nothing here measures accuracy. Each figure says something that a good answer must have, and :data:`MEANING` says what it
cannot tell.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amt.data.errors import DataError
from amt.hand.skeleton import BONES
from amt.infer.checks import InputError
from amt.infer.follow import Follower
from amt.infer.inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Images
from amt.infer.job import Job, Question
from amt.infer.result import Result
from amt.infer.stages import background
from amt.infer.video import Video

MEANING = {
    "found": "share of the pictures that got a hand. It does not tell whether that hand is there: a model that always "
    "answers has 100 %",
    "jitter": "mean acceleration of joints over three frames in a row, of the wrist before the camera and of the others from the "
    "wrist. It does not tell whether they are right: an answer that never moves has 0. True motion adds alike to every row",
    "bones": "standard deviation of a bone's length over its mean, within a clip and a side, mean of 20 bones. It does not tell "
    "whether the size or the pose is right; several people in a clip raise it",
    "to MediaPipe": "median distance in the picture from MediaPipe's 2D joints, in % of the hand's box. It is agreement, "
    "not truth: MediaPipe errs itself by some per cent, and nothing is said about depth",
    "ms a picture": "decoding left out; of this machine, while it did whatever else it does",
}

Landmarks = Callable[[np.ndarray], Sequence[tuple[str, np.ndarray]]]  # a picture's hands: side, and pixels [21, 2]


@dataclass(frozen=True)
class Clip:
    """Pictures that follow each other, or a single one."""

    name: str
    source: Images | Video

    def questions(self, job: Job) -> Iterator[Question]:
        """One for each picture that can be read; the others are told and counted."""
        if isinstance(self.source, Video):
            for picture in self.source:
                yield job.question(picture)
            return
        for i in range(len(self.source)):
            try:
                yield job.question(self.source.read(i))
            except (InputError, DataError) as error:
                job.leave_out(self.source.paths[i], error)


def clips_of(folder: Path, every: int = 1) -> list[Clip]:
    """The videos of a folder and of those in it, and their pictures: numbered names are one clip, others stand alone.

    Raises:
        InputError: there is neither.
    """
    if not folder.is_dir():
        raise InputError(f"--bench {folder}: no such folder; give the folder of your pictures or videos")
    clips = []
    for place in (folder, *sorted(p for p in folder.rglob("*") if p.is_dir())):
        files = sorted(p for p in place.iterdir() if p.is_file())
        clips += [Clip(str(p), Video(p, every)) for p in files if p.suffix.lower() in VIDEO_SUFFIXES]
        pictures = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
        pictures = [p for p in pictures if p.name.startswith("color_")] or pictures
        if len({re.sub(r"\d+$", "", p.stem) for p in pictures}) == 1 and len(pictures) > 2:
            clips.append(Clip(str(place), Images(pictures, rate=30, every=every)))
        else:
            clips += [Clip(str(p), Images([p])) for p in pictures[::every]]
    if not clips:
        raise InputError(f"--bench {folder}: holds neither pictures nor videos")
    return clips


@dataclass
class Figures:
    """What is known about one checkpoint on all clips."""

    pictures: int = 0
    found: int = 0
    seconds: float = 0.0
    wrist: list = None  # mm / frame²
    others: list = None
    bones: list = None  # standard deviation over mean
    distances: list = None  # share of the box

    def __post_init__(self):
        self.wrist, self.others, self.bones, self.distances = [], [], [], []

    def add(self, results: Sequence[Result]) -> None:
        """Counts the results of a clip's pictures, in their order."""
        self.pictures += len(results)
        hands = [r if r.hand_found else None for r in results]
        self.found += sum(hand is not None for hand in hands)
        for three in zip(hands, hands[1:], hands[2:]):
            if all(hand is not None for hand in three) and len({hand.side for hand in three}) == 1:
                joints = np.stack([hand.joints for hand in three]).astype(np.float64)
                self.wrist.append(_acceleration(joints[:, :1]))
                self.others.append(_acceleration((joints - joints[:, :1])[:, 1:]))
        for side in ("right", "left"):
            same = [hand.joints for hand in hands if hand is not None and hand.side == side]
            if len(same) > 2:
                lengths = bone_lengths(np.stack(same))
                self.bones.append(float((lengths.std(0) / lengths.mean(0)).mean()))

    def compare(self, result: Result, hands: Sequence[tuple[str, np.ndarray]]) -> None:
        """The distance from what MediaPipe sees of the same hand: of the nearest one."""
        if result.hand_found and hands:
            distances = [np.linalg.norm(pixels - result.joints_2d, axis=1).mean() for _, pixels in hands]
            self.distances.append(min(distances) / result.box[2])

    def row(self) -> dict[str, str]:
        """The cells of a table; a dash where there is nothing to say."""

        def mean(values: list, factor: float, form: str) -> str:
            return form.format(factor * np.mean(values)) if values else "–"

        return {
            "found": f"{100 * self.found / max(self.pictures, 1):.1f} %",
            "jitter": f"{mean(self.wrist, 1, '{:.2f}')} / {mean(self.others, 1, '{:.2f}')} mm",
            "bones": mean(self.bones, 100, "{:.2f} %"),
            "to MediaPipe": f"{100 * np.median(self.distances):.1f} %" if self.distances else "–",
            "ms a picture": f"{1000 * self.seconds / max(self.pictures, 1):.1f}",
        }


def _acceleration(joints: np.ndarray) -> float:
    """mm / frame²: mean length of the second difference of joints [3, J, 3] (m)."""
    return float(1000 * np.linalg.norm(joints[2] - 2 * joints[1] + joints[0], axis=-1).mean())


def bone_lengths(joints: np.ndarray) -> np.ndarray:
    """float64 [N, 20], m: of joints [N, 21, 3]."""
    start, end = np.array(BONES).T
    return np.linalg.norm(joints[:, end].astype(np.float64) - joints[:, start], axis=-1)


def measure(job: Job, clips: Sequence[Clip], landmarks: Landmarks | None, tell: Callable[[str], None]) -> Figures:
    """Follows the hand through every clip, as ``python -m amt.infer`` does."""
    from tqdm import tqdm

    figures = Figures()
    with tqdm(total=sum(len(clip.source) for clip in clips), unit="frame", disable=not sys.stderr.isatty()) as bar:
        for clip in clips:
            follower, results = Follower(job.predictor, job.side, job.smooth), []
            with closing(background(clip.questions(job))) as questions:
                for i, question in enumerate(questions):
                    start = time.perf_counter()
                    time_s = question.picture.time_s
                    hands, _ = follower.next(question.request, i / 30 if time_s is None else time_s)
                    results.append(hands[0])
                    figures.seconds += time.perf_counter() - start
                    if landmarks is not None:
                        figures.compare(results[-1], landmarks(question.picture.image))
                    bar.update()
            figures.add(results)
    if not figures.wrist:
        tell(
            "no three pictures in a row with a hand: jitter needs clips, which are videos or pictures with numbered names"
        )
    return figures


def table(rows: dict[str, dict[str, str]]) -> str:
    """A row for each checkpoint, and what each figure means."""
    names = list(next(iter(rows.values())))
    cells = [["checkpoint", *names], *([name, *row.values()] for name, row in rows.items())]
    widths = [max(len(line[k]) for line in cells) for k in range(len(names) + 1)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]
    return "\n".join([*lines, "", *(f"{name}: {MEANING[name]}." for name in names)])


def mediapipe_landmarks() -> Landmarks | None:
    """MediaPipe's hands, from its own package where that is installed; None where it is not."""
    try:
        import mediapipe
    except Exception:  # a package that does not fit the others can raise anything
        return None
    if not hasattr(mediapipe, "solutions"):
        return None
    hands = mediapipe.solutions.hands.Hands(static_image_mode=True, max_num_hands=2)

    def see(image: np.ndarray) -> list[tuple[str, np.ndarray]]:
        found = hands.process(image)
        size = np.array(image.shape[1::-1])
        sides = [
            ("right", "left")[h.classification[0].label == "Right"] for h in found.multi_handedness or ()
        ]  # as in a mirror
        places = [np.array([(p.x, p.y) for p in h.landmark]) * size - 0.5 for h in found.multi_hand_landmarks or ()]
        return list(zip(sides, places))

    return see
