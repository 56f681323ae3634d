"""How quickly a video is answered on this machine: frames a second with drawing, beside plain PyTorch, with every core busy, and
the first answer of a fresh process.

    python -m benchmarks.video [CHECKPOINT [PICTURE]] [--device cuda] [--box cx,cy,side] [--frames 300]

The video is the picture (default: a rendered grasp), scaled to 640x480 and moved by some pixels from frame to frame. On a GPU the
figures also go into the results file. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from amt.startup import run_program

if TYPE_CHECKING:
    from amt.infer.benchmark import Figures
    from amt.model.config import ModelConfig

WIDTH, HEIGHT, RATE = 640, 480, 30
QUICK_PICTURES = 8
FRESH = 3  # processes whose first answer is timed
FIRST = """
import sys, cv2, amt
predictor = amt.load(sys.argv[1], device=sys.argv[4])
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
    parser.add_argument("checkpoint", nargs="?", default="amt-tiny", help="a folder or a name (default %(default)s)")
    parser.add_argument("picture", nargs="?", type=Path)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--output", type=Path, help="results file that the figures go into (default: a GPU's own; none of a CPU)"
    )
    parser.add_argument("--quick", action="store_true", help="few pictures and processes: whether it runs")
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
    from benchmarks.results import load_mark

    device = options.device
    pictures = QUICK_PICTURES if options.quick else benchmark.PICTURES
    with TemporaryDirectory() as folder:
        given = options.picture or rendered(Path(folder))
        video, picture = make_video(
            given, Path(folder), min(options.frames, pictures) if options.quick else options.frames
        )
        fresh = [
            first_answer(options.checkpoint, picture, options.box or "320,240,240", device)
            for _ in range(1 if options.quick else FRESH)
        ]
        box = ["--box", options.box] if options.box else []
        command = read_command(
            [str(options.checkpoint), str(video), *box, "--fov", "60", "--benchmark", "--device", device]
        )
        job, source = job_of(command, command.checkpoint, device), Video(video)
        figures = benchmark.benchmark(job, source, 16, "float32", pictures=pictures)
        mark = load_mark()  # before this program loads the machine itself
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
        judged = "" if device == "cuda" else verdict(value, goal)  # the goals of two cores of a CPU
        print(f"{name:<48}{form.format(value):>8}{judged}")
    if device == "cuda" or options.output:
        kept = keep(options, figures, loaded, statistics.median(fresh), job.predictor.model.config, mark)
        print(f"record: {kept}")
    return 0


def keep(
    options: argparse.Namespace, figures: Figures, loaded: float, fresh: float, model: ModelConfig, mark: dict
) -> Path:
    """Writes the figures into the results file, and returns it; benchmarks/goals.py has a GPU's goals."""
    import torch

    from benchmarks.results import Results, default_path

    device = torch.device(options.device)
    path = options.output or default_path(device)
    Results(path, device).add(
        {
            "op": "video",
            "pass": "frames to film",
            "shape": {"checkpoint": Path(options.checkpoint).name, "size": model.size, "frame": f"{WIDTH}x{HEIGHT}"},
            "dtype": "float32",
            "device": device.type,
            "samples_s": round(figures.run_fps, 2),
            "samples_s_busy": round(loaded, 2),
            "answer_ms": round(1e3 * figures.answer_s, 4),
            "network_ms": round(1e3 * figures.model_s, 4),
            "network_of_16_ms": round(1e3 * figures.many_s, 4),
            "over_plain": {
                "network": round(figures.plain_model_s / figures.model_s, 3),
                "answer": round(figures.plain_answer_s / figures.answer_s, 3),
                "end to end": round(figures.end_to_end, 3),
            },
            "first_answer_s": round(fresh, 3),
            "quick": options.quick,
            **mark,
        }
    )
    return path


def rendered(folder: Path) -> Path:
    """A picture of a grasp."""
    from amt.data.synthetic.config import SetConfig
    from amt.data.synthetic.write import write_set

    write_set(folder / "set", SetConfig(independent=1), workers=1, progress=False)
    return next((folder / "set").rglob("color_*.jpg"))


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


def first_answer(checkpoint: Path | str, picture: Path, box: str, device: str = "cpu") -> float:
    """Seconds from the start of a Python process to its first answer, the interpreter's own start included."""
    start = time.perf_counter()
    command = [sys.executable, "-c", FIRST, str(checkpoint), str(picture), box, device]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"benchmarks.video: the fresh process failed: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
