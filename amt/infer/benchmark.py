"""``--benchmark``: where the time of a run goes, stage by stage, beside the same network in plain PyTorch."""

from __future__ import annotations

import itertools
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from amt.data.crops import centred_square
from amt.draw.pictures import film
from amt.infer.checks import InputError, check_box
from amt.infer.engine import Engine
from amt.infer.film import open_film
from amt.infer.follow import Follower
from amt.infer.inputs import Images, Picture
from amt.infer.job import Job, Question
from amt.infer.output import OutputFolder, Records
from amt.infer.predictor import Predictor
from amt.infer.result import Result
from amt.infer.run import record_of, run
from amt.infer.video import LiveCamera, Video
from amt.kernels import use
from amt.locate import Located

STAGES = ("decode", "locate", "crop", "model", "unpack", "draw", "write")
WARM_UP = 5  # pictures before the clock counts
PICTURES = 100  # that are timed
PERCENTILES = (50, 90, 99)
SCOPE = """scope, one picture after the other on one thread of Python, nothing overlaps:
  decode   from the file to RGB, and what is asked about the picture
  locate   the locator, or the search by windows where the picture before does not say where the hand is
  crop     the square that the network sees, for every look at it
  model    the network, with refinement; {engine}, {precision}, {threads} thread(s) of PyTorch, {device}
  unpack   NumPy arrays of the answer, projection, confidence
  draw     the overlay and the view from the side, in memory
  write    a line of JSON, and the picture into overlay.mp4
batch 1 follows the hand through the pictures; batch N is given N pictures and their boxes at once, times a picture"""


class StageClock:
    """Seconds by stage and picture. A stage within a stage counts for the outer one."""

    def __init__(self):
        self.rows: list[dict[str, float]] = []
        self.inside = False

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self.inside:
            yield
            return
        self.inside, start = True, time.perf_counter()
        try:
            yield
        finally:
            self.rows[-1][name] += time.perf_counter() - start
            self.inside = False

    @contextmanager
    def picture(self, count: int = 1) -> Iterator[None]:
        """Times all that is done to a picture, or to ``count`` at once, of which each gets its share."""
        self.rows.append(defaultdict(float))
        start = time.perf_counter()
        yield
        row = self.rows[-1]
        row["total"] = time.perf_counter() - start
        for name in row:
            row[name] /= count


def benchmark(job: Job, source: Images | Video | LiveCamera, batch: int, precision: str) -> None:
    """Prints the tables for a job as it is, and for its network in plain PyTorch, at batch 1 and ``batch``."""
    predictor = job.predictor
    say(
        SCOPE.format(
            engine=f"engine {predictor.engine.name}",
            precision=precision,
            threads=torch.get_num_threads(),
            device=predictor.device,
        )
    )
    if predictor.finder is not None:
        predictor.finder = _Timed(predictor)
    ours, plain = predictor.engine, Engine(predictor.model, predictor.device, "eager", False, batch)
    found: dict[str, list[float]] = {}
    for name, engine, implementation in (("AMT", ours, None), ("plain PyTorch", plain, "reference")):
        predictor.engine = engine
        with use(implementation) if implementation else nullcontext():
            rows, known = _one_by_one(job, source)
            _print(f"{name}, batch 1", rows)
            many = _at_once(job, known, batch)
            _print(f"{name}, batch {batch}", many)
        found[name] = [_median(rows, "model"), _median(many, "model"), _mean(rows, "total")]
        say(f"memory: {_resident():.0f} MB resident now, {_peak():.0f} MB at most so far")
    predictor.engine = ours
    (one, many, total), (plain_one, plain_many, plain_total) = found["AMT"], found["plain PyTorch"]
    say(
        f"AMT beside plain PyTorch: network {plain_one / one:.2f} x at batch 1, {plain_many / many:.2f} x at batch {batch}; "
        f"end to end {plain_total / total:.2f} x"
    )
    if isinstance(source, LiveCamera):
        return
    with TemporaryDirectory() as folder:
        job.out, start = OutputFolder(folder), time.perf_counter()
        done, _ = run(job, source)
        seconds = time.perf_counter() - start
    say(
        f"the run as it is, with stages that overlap, over the whole input: {done} pictures, {done / seconds:.1f} frames/s"
    )


class _Timed:
    """A predictor's finder, whose time counts as that of the stage "locate"."""

    def __init__(self, predictor: Predictor):
        self.predictor, self.finder = predictor, predictor.finder

    def locate(self, image: np.ndarray) -> list[Located]:
        with self.predictor.stage("locate"):
            return self.finder.locate(image)

    def locate_many(self, images: Sequence[np.ndarray]) -> list[list[Located]]:
        with self.predictor.stage("locate"):
            return self.finder.locate_many(images)


def say(text: str) -> None:
    """Prints at once, so that a table is seen when it is ready."""
    print(text, flush=True)


def _pictures(source: Images | Video | LiveCamera) -> Iterator[Picture]:
    """The source's pictures, again from the start where it has too few; each is decoded when it is asked for."""
    while True:
        count = 0
        for picture in (source.read(i) for i in range(len(source))) if isinstance(source, Images) else source:
            count += 1
            yield picture
        if not count:
            return


def _one_by_one(job: Job, source) -> tuple[list[dict], list[tuple[Question, Result]]]:
    clock, known = StageClock(), []
    follower, job.predictor.stage = Follower(job.predictor, job.side, job.smooth), clock
    pictures = _pictures(source)
    with TemporaryDirectory() as folder:
        out = OutputFolder(folder)
        with Records(out) as records, open_film(out, "overlay.mp4", 30, None, print) as shown:
            for i in range(WARM_UP + PICTURES):
                with clock.picture():
                    with clock("decode"):
                        question = job.question(next(pictures))
                    result = follower.next(question.request, i / 30)[0][0]
                    with clock("draw"):
                        drawn = film(question.picture.image, result)
                    with clock("write"):
                        shown.add(drawn, i / 30)
                        records.add(record_of(question, result))
                known.append((question, result))
                del known[:-64]
    return clock.rows[WARM_UP:], known


def _at_once(job: Job, known: list[tuple[Question, Result]], batch: int) -> list[dict]:
    """Pictures that are in memory, and whose boxes are known."""
    clock = StageClock()
    job.predictor.stage = clock
    inside = [replace(question.request, box=result.box) for question, result in known if _fits(question, result)]
    if not inside:
        inside = [replace(question.request, box=_middle(question)) for question, _ in known]
    turn = itertools.cycle(inside)
    for _ in range(2 + max(4, PICTURES // batch)):
        requests = list(itertools.islice(turn, batch))
        with clock.picture(batch):
            job.predictor.predict_many(requests)
    return clock.rows[2:]


def _fits(question: Question, result: Result) -> bool:
    try:
        check_box(result.box, *question.picture.image.shape[:2])
    except InputError:
        return False
    return True


def _middle(question: Question) -> np.ndarray:
    return centred_square(*question.picture.image.shape[:2])


def _print(title: str, rows: list[dict]) -> None:
    say(f"\n{title}, ms a picture   " + "".join(f"{f'p{p}':>9}" for p in PERCENTILES) + f"{'mean':>9}{'share':>8}")
    total = _mean(rows, "total")
    for stage in (*STAGES, "total"):
        values = 1000 * np.array([row.get(stage, 0.0) for row in rows])
        if values.any():
            cells = "".join(f"{value:9.2f}" for value in (*np.percentile(values, PERCENTILES), values.mean()))
            say(f"  {stage:<26}{cells}{values.mean() / total / 10:7.1f}%")
    named = sum(_mean(rows, stage) for stage in STAGES)
    say(f"  the stages add up to {100 * named / total:.1f} % of the total; {1 / total:.1f} pictures/s")


def _mean(rows: list[dict], stage: str) -> float:
    return float(np.mean([row.get(stage, 0.0) for row in rows]))


def _median(rows: list[dict], stage: str) -> float:
    return float(np.median([row.get(stage, 0.0) for row in rows]))


def _resident() -> float:
    """MB of this process in memory; NaN where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError, IndexError):
        return float("nan")


def _peak() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
