"""``python -m tools.long_video CHECKPOINT``: whether memory stays flat over a video of 10,000 frames, and what a kill leaves.

The video is small, 320x240. A few rendered frames of two hands sway in it, and every ten seconds the hands are gone for a while,
so that hands are found, followed, lost and drawn. Memory is the program's resident memory, every 500 frames; growth is counted
from the first 500 on. Then the program is killed by SIGKILL at random moments, and what it leaves is read. Needs the extra that
renders (embreex).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from amt.errors import UserError
from amt.startup import run_program
from benchmarks.video import verdict
from tools.two_hands import two_hands

WIDTH, HEIGHT, RATE = 320, 240, 30
RENDERED, SEED = 6, 1000  # frames; of the scene
HELD = 3  # frames of the video that show one rendered frame
SWAY = (24, 10)  # px, across and down
CYCLE, GONE = 300, 45  # frames: after so many the video begins anew; of them those at the end that show no hand
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
        print(found_hands(Path(folder, "whole", "predictions.jsonl")), flush=True)
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
    """Two hands that sway; smooth noise at the end of each cycle."""
    import cv2

    rendered = [
        cv2.resize(image[..., ::-1], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        for image in two_hands(SEED, RENDERED, lift=False).images
    ]
    there_and_back = rendered + rendered[-2:0:-1]
    coarse = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    noise = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
    for k in range(frames):
        image = there_and_back[k // HELD % len(there_and_back)] if k % CYCLE < CYCLE - GONE else noise
        moved = np.float32([[1, 0, SWAY[0] * np.sin(k / 31)], [0, 1, SWAY[1] * np.sin(k / 17)]])
        writer.write(cv2.warpAffine(image, moved, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE))
    writer.release()
    return path


def found_hands(path: Path) -> str:
    """How many frames have how many hands, and how many of the hands were followed from the frame before, in words."""
    hands, followed = Counter(), 0
    for line in path.read_text().splitlines():
        record = json.loads(line)
        hands[record["frame"]] += record["hand_found"]
        followed += record["hand_found"] and record["box_source"] == "tracked"
    frames, found = Counter(hands.values()), sum(hands.values())
    numbers = ", ".join(f"{frames[n]:,} with {n}" for n in sorted(frames))
    return f"hands: {found:,}, of them {followed:,} followed; of {len(hands):,} frames {numbers}"


def run(checkpoint: Path, video: Path, out: Path, look: Callable[[subprocess.Popen, int], None]) -> int:
    """Runs the program over the video; ``look`` gets it and the number of frames with lines, some times a second. Its status."""
    command = [sys.executable, "-m", "amt.infer", str(checkpoint), str(video), "--fov", "60", "--out", str(out)]
    running = subprocess.Popen([*command, "--csv"], stdout=subprocess.DEVNULL)
    read, rest, count = 0, b"", 0
    try:
        while running.poll() is None:
            time.sleep(0.05)
            if (out / LINES).is_file():
                with open(out / LINES, "rb") as file:
                    file.seek(read)
                    more = file.read()
                *whole, rest = (rest + more).split(b"\n")
                read, count = read + len(more), json.loads(whole[-1])["frame"] + 1 if whole else count
                look(running, count)
    finally:
        running.kill()
        running.wait()
    return running.returncode


def left(out: Path) -> str:
    """What a killed run left, in words. Raises UserError where a line cannot be read, but for a last one that was cut."""
    *whole, last = (out / LINES).read_bytes().split(b"\n")
    before = -1
    for number, line in enumerate(whole):  # one a hand, at least one a frame
        frame = json.loads(line)["frame"]
        if frame not in (max(before, 0), before + 1):
            raise UserError(f"{out / LINES}: line {number + 1} is another frame's; the file is broken")
        before = frame
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
