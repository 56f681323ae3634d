"""How quickly a video is answered on this machine: frames a second with drawing, beside plain PyTorch, with every core busy, and
the first answer of a fresh process.

    python -m benchmarks.video CHECKPOINT PICTURE [--box cx,cy,side] [--frames 300]

The video is the picture, scaled to 640x480 and moved by some pixels from frame to frame. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from amt.startup import run_program

WIDTH, HEIGHT, RATE = 640, 480, 30
FRESH = 3  # processes whose first answer is timed
FIRST = """
import sys, cv2, amt
predictor = amt.load(sys.argv[1], device="cpu")
predictor(cv2.imread(sys.argv[2])[..., ::-1], boxes=[float(x) for x in sys.argv[3].split(",")])
"""
GOALS = (  # name, its least or most, in words
    ("network, batch 1, over plain PyTorch", None, "{:.2f} x"),
    ("picture to answer, over plain PyTorch", 2.0, "{:.2f} x"),
    ("end to end, over plain PyTorch", 2.0, "{:.2f} x"),
    ("frames/s with drawing", 15.0, "{:.1f}"),
    ("share of the total that the stages add up to", 0.95, "{:.3f}"),
    ("frames/s with drawing, a busy process a core", 4.0, "{:.1f}"),
    ("first answer of a fresh process, s", -4.0, "{:.2f}"),  # below 0: at most
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.video", description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument(
        "--box", help="the hand in the picture scaled to 640x480, px (default: it is looked for and followed)"
    )
    parser.add_argument("--frames", type=int, default=300)
    options = parser.parse_args(arguments)
    return run_program("benchmarks.video", lambda: measure(options))


def measure(options: argparse.Namespace) -> int:
    """Prints every figure, and whether its goal is met."""
    from amt.infer import benchmark
    from amt.infer.__main__ import job_of
    from amt.infer.command import read_command
    from amt.infer.video import Video
    from benchmarks.load import busy

    with TemporaryDirectory() as folder:
        video, picture = make_video(options.picture, Path(folder), options.frames)
        fresh = [first_answer(options.checkpoint, picture, options.box or "320,240,240") for _ in range(FRESH)]
        box = ["--box", options.box] if options.box else []
        command = read_command(
            [str(options.checkpoint), str(video), *box, "--fov", "60", "--benchmark", "--device", "cpu"]
        )
        job, source = job_of(command, options.checkpoint, "cpu"), Video(video)
        figures = benchmark.benchmark(job, source, 16, "float32")
        with busy():
            loaded = benchmark.run_fps(job, source)
    values = (
        figures.plain_model_s / figures.model_s,
        figures.plain_answer_s / figures.answer_s,
        figures.end_to_end,
        figures.run_fps,
        figures.named,
        loaded,
        statistics.median(fresh),
    )
    print()
    for (name, goal, form), value in zip(GOALS, values):
        print(f"{name:<48}{form.format(value):>8}{verdict(value, goal)}")
    return 0


def verdict(value: float, goal: float | None) -> str:
    if goal is None:
        return ""
    met = value >= goal if goal > 0 else value <= -goal
    return f"   goal {'>=' if goal > 0 else '<='} {abs(goal):g}: {'met' if met else 'missed'}"


def make_video(picture: Path, folder: Path, frames: int) -> tuple[Path, Path]:
    """The video, and its first frame as a picture."""
    import cv2
    import numpy as np

    image = cv2.resize(cv2.imread(str(picture)), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    path = folder / "video.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
    for k in range(frames):
        shift = np.array([[1, 0, 15 * np.sin(k / 15)], [0, 1, 10 * np.sin(k / 20)]])
        writer.write(cv2.warpAffine(image, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE))
    writer.release()
    cv2.imwrite(str(folder / "picture.png"), image)
    return path, folder / "picture.png"


def first_answer(checkpoint: Path, picture: Path, box: str) -> float:
    """Seconds from the start of a Python process to its first answer, the interpreter's own start included."""
    start = time.perf_counter()
    command = [sys.executable, "-c", FIRST, str(checkpoint), str(picture), box]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"benchmarks.video: the fresh process failed: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
