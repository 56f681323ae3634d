"""``python -m tools.long_video CHECKPOINT``: whether memory stays flat over a video of 10,000 frames, and what a kill leaves.

The video is small, 64x48, because only its length matters. Memory is the program's resident memory, every 500 frames; growth is
counted from the first 500 on. Then the program is killed by SIGKILL at random moments, and what it leaves is read.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from amt.errors import UserError
from amt.startup import run_program
from benchmarks.video import verdict

WIDTH, HEIGHT, RATE = 64, 48, 30
LINES, FILM = ".part-predictions.jsonl", ".pieces-overlay.mp4"  # what a run writes before it ends


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.long_video", description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument(
        "--every", type=int, default=500, help="frames between two looks at the memory (default %(default)s)"
    )
    parser.add_argument("--kills", type=int, default=5, help="(default %(default)s)")
    options = parser.parse_args(arguments)
    return run_program("tools.long_video", lambda: measure(options))


def measure(options: argparse.Namespace) -> int:
    with TemporaryDirectory() as folder:
        video = make_video(Path(folder, "video.mp4"), options.frames)
        seen: list[float] = []

        def look(running: subprocess.Popen, frames: int) -> None:
            if frames >= (len(seen) + 1) * options.every:
                seen.append(resident_mb(running.pid))
                print(f"{frames:>7} frames {seen[-1]:>9.1f} MB", flush=True)

        status = run(options.checkpoint, video, Path(folder, "whole"), look)
        if status or not seen:
            raise UserError(f"the run ended with status {status} after {len(seen) * options.every} frames; see above")
        growth = max(seen) / seen[0] - 1
        print(f"growth after the first {options.every} frames: {100 * growth:.2f} %{verdict(growth, -0.05)}")
        moments = np.random.default_rng(0).integers(2, max(3, min(options.frames, 400) // 2), options.kills)
        for k, moment in enumerate(moments.tolist()):
            out = Path(folder, f"killed-{k}")

            def kill(running: subprocess.Popen, frames: int, moment: int = moment) -> None:
                if frames >= moment:
                    os.kill(running.pid, signal.SIGKILL)

            run(options.checkpoint, video, out, kill)
            print(f"killed at frame {moment}: {left(out)}", flush=True)
    return 0


def make_video(path: Path, frames: int) -> Path:
    """Smooth noise that moves."""
    import cv2

    coarse = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
    for k in range(frames):
        writer.write(np.roll(image, (k // 7 % HEIGHT, k % WIDTH), (0, 1)))
    writer.release()
    return path


def run(checkpoint: Path, video: Path, out: Path, look: Callable[[subprocess.Popen, int], None]) -> int:
    """Runs the program over the video; ``look`` gets it and the number of its lines, some times a second. Its status."""
    command = [sys.executable, "-m", "amt.infer", str(checkpoint), str(video), "--fov", "60", "--out", str(out)]
    box = f"{WIDTH / 2},{HEIGHT / 2},{HEIGHT}"
    running = subprocess.Popen([*command, "--box", box, "--csv"], stdout=subprocess.DEVNULL)
    read = count = 0
    try:
        while running.poll() is None:
            time.sleep(0.05)
            if (out / LINES).is_file():
                with open(out / LINES, "rb") as file:
                    file.seek(read)
                    more = file.read()
                read, count = read + len(more), count + more.count(b"\n")
                look(running, count)
    finally:
        running.kill()
        running.wait()
    return running.returncode


def left(out: Path) -> str:
    """What a killed run left, in words. Raises UserError where a line cannot be read, but for a last one that was cut."""
    *whole, last = (out / LINES).read_bytes().split(b"\n")
    for number, line in enumerate(whole):
        if json.loads(line)["frame"] != number:
            raise UserError(f"{out / LINES}: line {number + 1} is another frame's; the file is broken")
    said = f"{len(whole)} whole lines{', one that was cut' if last else ''}"
    if not (out / FILM).is_file():
        return f"{said}; no film (without PyAV it is written at the end)"
    return f"{said}; a film of {film_frames(out / FILM)} frames"


def film_frames(path: Path) -> int:
    """Frames that can be decoded."""
    import av

    with av.open(str(path)) as film:
        return sum(1 for _ in film.decode(video=0))


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
