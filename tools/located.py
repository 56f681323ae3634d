"""``python -m tools.located CHECKPOINT DATA``: what is lost where nobody gives boxes. Prints each figure with its goal.

Recall, AP50 and false alarms of the answers on the test frames of a set: a box around the joints of each, at an overlap of 0.5.
MPJPE-p of the model in located boxes beside the true ones. And a rendered video of two hands: frames in which both are answered,
sides, identities, and the jitter of followed and smoothed hands beside that of a frame at a time. Needs the extra that renders
(embreex).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from amt.data.config import DataConfig
from amt.data.layout import HAND_SEGMENT
from amt.data.loader import open_reader
from amt.data.set_folder import Frame
from amt.data.whole_frames import HEIGHT, HIDDEN, WIDTH, compose, read_whole_frames
from amt.errors import UsageError
from amt.infer.config import LOCATORS
from amt.infer.hands import HandsTracker, predict_hands
from amt.infer.predictor import Predictor, load
from amt.infer.request import Request
from amt.infer.result import Result
from amt.metrics.detections import average_precision, false_alarms, matches, recall
from amt.metrics.sequences import acceleration_error_mm
from amt.startup import run_program
from benchmarks.video import verdict
from tools.two_hands import SIDES, TwoHands, triples, two_hands

EMPTY = 500  # pictures without a hand
RATE = 30  # frames/s of the video
BATCH = 32
HALF_HIDDEN = 0.15  # of its box: a hand that covers less is mostly behind something


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.located", description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="a set in DexYCB's layout; its test frames of split s1 are taken")
    parser.add_argument("--frames", type=int, default=512, help="test frames at most (default %(default)s)")
    parser.add_argument("--video", type=int, default=72, help="frames of the rendered video (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1000, help="of the video's scene (default %(default)s)")
    parser.add_argument("--locator", choices=LOCATORS[:2], default="model")
    parser.add_argument("--mediapipe", help="its wheel, for --locator mediapipe")
    options = parser.parse_args(arguments)
    return run_program("tools.located", lambda: measure(options))


def measure(options: argparse.Namespace) -> int:
    predictor = load(options.checkpoint, device="cpu", locator=options.locator, mediapipe=options.mediapipe)
    data = DataConfig(root=str(options.data), split="s1", limit=options.frames)
    say_frames(predictor, data)
    if options.locator == "model":
        say_accuracy(options.checkpoint, options.data, options.frames)
    say_video(predictor, two_hands(options.seed, options.video))
    return 0


def say(name: str, value: float, form: str, goal: float | None = None) -> None:
    print(f"{name:<72}{form.format(value):>9}{verdict(value, goal)}", flush=True)


def say_frames(predictor: Predictor, data: DataConfig) -> None:
    """How well the hands of test frames are found, and nothing where there is none."""
    finder = predictor.finder
    reader = open_reader(data, "test")
    frames = [frame for frame in (reader[k] for k in range(len(reader))) if frame.hand_valid]
    found, scores, answered, spreads, true, right = [], [], [], [], [], []
    shown = np.array([covered(frame) for frame in frames])
    for start in range(0, len(frames), BATCH):
        part = frames[start : start + BATCH]
        pictures = [frame.image() for frame in part]
        requests = [Request(image, frame.intrinsics) for image, frame in zip(pictures, part)]
        for frame, hands, results in zip(part, finder.locate_many(pictures), predict_hands(predictor, requests)):
            sure = [hand for hand in hands if hand.sure]
            found.append(np.array([hand.tight for hand in sure]).reshape(-1, 4))
            scores.append(np.array([hand.score for hand in sure]))
            answered.append(np.array([tight(result.joints_2d) for result in results]).reshape(-1, 4))
            spreads.append(np.array([-result.spread for result in results]))
            true.append(tight(frame.joints_2d)[None])
            chosen = matches(answered[-1], spreads[-1], true[-1])
            right += [result.side == frame.sequence.side for result, match in zip(results, chosen) if match >= 0]
    for least in (0.0, HIDDEN, HALF_HIDDEN):
        seen = [[column[k] for k in np.flatnonzero(shown >= least)] for column in (answered, spreads, true)]
        of = (
            f"{len(frames)} test frames"
            if not least
            else f"{len(seen[0])} hands that cover {100 * least:.0f} % of their box"
        )
        say(f"recall of the answers, {of}", recall(*seen), "{:.3f}", None if least else 0.98)
        say(f"AP50 of the answers, {of}", average_precision(*seen), "{:.3f}", None if least else 0.95)
    say("recall of the locator alone, above its threshold", recall(found, scores, true), "{:.3f}")
    say("AP50 of the locator alone", average_precision(found, scores, true), "{:.3f}")
    say("side right, of the hands answered", float(np.mean(right)) if right else float("nan"), "{:.3f}")
    pictures = read_whole_frames(reader, len(frames), data.augment.backgrounds)
    empty = [compose(pictures, WIDTH, HEIGHT, 0, 1, k, empty=1, plain=True).image for k in range(EMPTY)]
    alarms = [
        len(hands)
        for start in range(0, EMPTY, BATCH)
        for hands in predict_hands(
            predictor, [Request(image, frames[0].intrinsics) for image in empty[start : start + BATCH]]
        )
    ]
    say(
        f"false alarms, share of {EMPTY} pictures without a hand",
        false_alarms([[1.0] * n for n in alarms]),
        "{:.4f}",
        -0.01,
    )


def tight(pixels: np.ndarray) -> np.ndarray:
    """float64 [4], px: left, top, right, bottom around joints [21, 2]."""
    return np.concatenate((pixels.min(0), pixels.max(0))).astype(np.float64)


def covered(frame: Frame) -> float:
    """The hand's share of its joints' box, 0-1: 0 where something hides it all."""
    box = np.ptp(frame.joints_2d, axis=0).prod()
    return float((frame.segment() == HAND_SEGMENT).sum() / max(box, 1.0))


def say_accuracy(checkpoint: Path, data: Path, limit: int) -> None:
    """MPJPE-p in located boxes over that in the true ones, as ``amt.evaluate`` scores both."""
    from amt.evaluate.__main__ import main as evaluate

    errors = {}
    with TemporaryDirectory() as folder:
        for box in ("truth", "located"):
            output = Path(folder, f"{box}.json")
            words = [f"evaluate.box={box}", f"evaluate.output={output}", "evaluate.report=off", "evaluate.device=cpu"]
            if evaluate([str(checkpoint), f"data.root={data}", f"data.limit={limit}", *words]):
                raise UsageError(f"{checkpoint}: its evaluation failed; the line above says why")
            errors[box] = json.loads(output.read_text())["wrist_aligned_mpjpe_p_mm"]
    say("MPJPE-p, wrist-aligned, in true boxes, mm", errors["truth"], "{:.2f}")
    say("MPJPE-p, wrist-aligned, in located boxes, mm", errors["located"], "{:.2f}")
    say("located over true", errors["located"] / errors["truth"], "{:.3f}", -1.05)


def say_video(predictor: Predictor, video: TwoHands) -> None:
    """Both ways through a video of two hands: followed and smoothed, and a frame at a time."""
    tracker = HandsTracker(predictor, predictor.finder)
    requests = [Request(image, video.intrinsics) for image in video.images]
    followed = [tracker.next(request, k / RATE) for k, request in enumerate(requests)]
    alone = [list(enumerate(predict_hands(predictor, [request])[0])) for request in requests]
    pixels, joints = video.joints_2d(), video.joints
    say_answers("followed", followed, pixels)
    say_answers("a frame at a time", alone, pixels)
    smooth, single = (jitter_mm(*series(answers, pixels), joints) for answers in (followed, alone))
    shared = smooth.keys() & single.keys()
    means = [float(np.mean([of[key] for key in shared])) if shared else float("nan") for of in (smooth, single)]
    say(f"jitter of followed hands, mm / frame², {len(shared)} triples of frames", means[0], "{:.2f}")
    say("jitter of a frame at a time, the same triples", means[1], "{:.2f}")
    say("followed over a frame at a time", means[0] / means[1], "{:.3f}", -1.0)


def say_answers(name: str, answers: list[list[tuple[int, Result]]], pixels: np.ndarray) -> None:
    chosen = [assigned(of_frame, truth) for of_frame, truth in zip(answers, pixels)]
    both = [all(hand is not None for hand in hands) for hands in chosen]
    sides = [hand[1].side == side for hands in chosen for hand, side in zip(hands, SIDES) if hand is not None]
    say(f"{name}: frames with at least one answer", float(np.mean([len(a) > 0 for a in answers])), "{:.3f}", 1.0)
    say(f"{name}: frames in which both hands are answered", float(np.mean(both)), "{:.3f}")
    say(f"{name}: side right", float(np.mean(sides)) if sides else float("nan"), "{:.3f}")
    if name == "followed":
        numbers = {hand[0] for hands in chosen for hand in hands if hand is not None}
        say("followed: numbers that the two hands had", len(numbers), "{:.0f}", -2.0)


def assigned(answers: list[tuple[int, Result]], true: np.ndarray) -> list[tuple[int, Result] | None]:
    """For each true hand [2, 21, 2] (px) the answer that lies on it: nearest in mean, within half of the hand's length."""
    chosen: list[tuple[int, Result] | None] = [None] * len(true)
    away = np.array([[np.linalg.norm(r.joints_2d - t, axis=1).mean() for t in true] for _, r in answers])
    lengths = np.array([np.ptp(t, axis=0).max() for t in true])
    while away.size and (away < lengths / 2).any():
        k, hand = np.unravel_index(np.argmin(np.where(away < lengths / 2, away, np.inf)), away.shape)
        chosen[hand] = answers[k]
        away[k], away[:, hand] = np.inf, np.inf
    return chosen


def series(answers: list[list[tuple[int, Result]]], pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints of both hands over a video, float64 [T, 2, 21, 3] (m), NaN where there is no answer; bool [T, 2]: there is one."""
    joints = np.full((len(answers), 2, 21, 3), np.nan)
    for k, (of_frame, true) in enumerate(zip(answers, pixels)):
        for hand, answer in enumerate(assigned(of_frame, true)):
            if answer is not None:
                joints[k, hand] = answer[1].joints
    return joints, np.isfinite(joints).all((2, 3))


def jitter_mm(joints: np.ndarray, found: np.ndarray, true: np.ndarray) -> dict[tuple[int, int], float]:
    """Acceleration error (mm a frame squared, mean over joints) of each hand and three frames in a row that were found."""
    errors = {}
    for hand in range(true.shape[1]):
        for part in triples(found[:, hand]):
            pair = (torch.from_numpy(np.ascontiguousarray(x[part, hand])) for x in (joints, true))
            errors[hand, part.start] = float(acceleration_error_mm(*pair).mean())
    return errors


if __name__ == "__main__":
    sys.exit(main())
