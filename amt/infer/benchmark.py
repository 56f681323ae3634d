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
from dataclasses import dataclass, replace
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
from amt.infer.predictor import Predictor, no_clock
from amt.infer.result import Result
from amt.infer.run import record_of, run
from amt.infer.video import LiveCamera, Video
from amt.kernels import use
from amt.locate import Finder, Located, ModelLocator
from amt.locate.mediapipe import VERSION, MediaPipeLocator

STAGES = ("decode", "locate", "crop", "model", "unpack", "draw", "write")
ANSWER = ("locate", "crop", "model", "unpack")  # from a picture in memory to its answer
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
batch 1 follows the hand through the pictures; batch N is given N pictures and their boxes at once, times a picture
plain PyTorch is the same checkpoint, eager, in float32, with the reference ops, its locator's networks as they were trained; all
that is no network, such as crops, drawing and files, is the same code
"picture to answer" is locate, crop, model and unpack of batch 1; "end to end" is the whole run, with stages that overlap, over
the pictures a second of the same work in plain PyTorch, one stage after the other"""
RIVAL = """MediaPipe, both models of {version} on one thread of LiteRT, without its own pipeline. It gives joints in the picture,
and no mesh, object, contact or distance; a hand that it follows costs it the landmarks alone"""


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


@dataclass(frozen=True)
class Figures:
    """What :func:`benchmark` found; ``plain_*`` is of the same network in plain PyTorch with the reference ops alone."""

    model_s: float  # median of the stage "model" at batch 1; plain_model_s
    plain_model_s: float
    many_s: float  # the same a picture of a batch
    plain_many_s: float
    answer_s: float  # mean of locate, crop, model and unpack at batch 1
    plain_answer_s: float
    total_s: float  # mean of all stages at batch 1, one after the other
    plain_total_s: float
    named: float  # 0-1: share of the total that the stages add up to, the least of four tables
    run_fps: float  # pictures/s of the run as it is, over the whole input; NaN of a camera

    @property
    def end_to_end(self) -> float:
        """The run as it is over plain PyTorch, one stage after the other."""
        return self.run_fps * self.plain_total_s


def benchmark(
    job: Job,
    source: Images | Video | LiveCamera,
    batch: int,
    precision: str,
    rival: MediaPipeLocator | None = None,
    pictures: int | None = None,
) -> Figures:
    """Prints the tables for a job as it is, and for its network in plain PyTorch, at batch 1 and ``batch``.

    Args:
        rival: MediaPipe's models, which are then timed on the same pictures.
        pictures: that are timed; None: :data:`PICTURES`.
    """
    pictures = PICTURES if pictures is None else pictures
    predictor = job.predictor
    say(
        SCOPE.format(
            engine=f"engine {predictor.engine.name}",
            precision="convolutions in bfloat16, all else in float32" if predictor.engine.narrow else precision,
            threads=torch.get_num_threads(),
            device=predictor.device,
        )
    )
    finder = predictor.finder
    plain_finder = finder.plain() if isinstance(finder, ModelLocator) else finder
    ours, plain = predictor.engine, Engine(predictor.model, predictor.device, "eager", False, batch)
    ours.hurry()
    found: dict[str, list[list[dict]]] = {}
    sides = (("AMT", ours, finder, None), ("plain PyTorch", plain, plain_finder, "reference"))
    for name, engine, found_by, implementation in sides:
        predictor.engine, predictor.finder = engine, None if found_by is None else _Timed(predictor, found_by)
        with use(implementation) if implementation else nullcontext():
            rows, known = _one_by_one(job, source, pictures)
            _print(f"{name}, batch 1", rows)
            many = _at_once(job, known, batch, pictures)
            _print(f"{name}, batch {batch}", many)
        found[name] = [rows, many]
        say(f"memory: {_resident():.0f} MB resident now, {_peak():.0f} MB at most so far")
    if rival is not None:
        _print("MediaPipe", _mediapipe(rival, source, pictures), ("palms", "landmarks"))
        say(RIVAL.format(version=VERSION))
    predictor.engine, predictor.finder, predictor.stage = ours, finder, no_clock
    (one, many), (plain_one, plain_many) = found["AMT"], found["plain PyTorch"]
    figures = Figures(
        model_s=_median(one, "model"),
        plain_model_s=_median(plain_one, "model"),
        many_s=_median(many, "model"),
        plain_many_s=_median(plain_many, "model"),
        answer_s=sum(_mean(one, stage) for stage in ANSWER),
        plain_answer_s=sum(_mean(plain_one, stage) for stage in ANSWER),
        total_s=_mean(one, "total"),
        plain_total_s=_mean(plain_one, "total"),
        named=min(_named(rows) for rows in (one, many, plain_one, plain_many)),
        run_fps=float("nan") if isinstance(source, LiveCamera) else run_fps(job, source),
    )
    say(
        f"AMT beside plain PyTorch: network {figures.plain_model_s / figures.model_s:.2f} x at batch 1, "
        f"{figures.plain_many_s / figures.many_s:.2f} x at batch {batch}; picture to answer "
        f"{figures.plain_answer_s / figures.answer_s:.2f} x; all stages one after the other "
        f"{figures.plain_total_s / figures.total_s:.2f} x"
    )
    if not isinstance(source, LiveCamera):
        say(
            f"the run as it is, over the whole input: {figures.run_fps:.1f} frames/s; end to end {figures.end_to_end:.2f} x"
        )
    return figures


def run_fps(job: Job, source: Images | Video) -> float:
    """Pictures/s of a run as it is, over the whole input, with all that it writes."""
    with TemporaryDirectory() as folder:
        job.out, start = OutputFolder(folder), time.perf_counter()
        done, _ = run(job, source)
        return done / (time.perf_counter() - start)


class _Timed:
    """A finder whose time counts as that of the stage "locate"."""

    def __init__(self, predictor: Predictor, finder: Finder):
        self.predictor, self.finder = predictor, finder

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


def _one_by_one(job: Job, source, count: int) -> tuple[list[dict], list[tuple[Question, Result]]]:
    clock, known = StageClock(), []
    follower, job.predictor.stage = Follower(job.predictor, job.side, job.smooth), clock
    pictures = _pictures(source)
    with TemporaryDirectory() as folder:
        out = OutputFolder(folder)
        with Records(out) as records, open_film(out, "overlay.mp4", 30, None, print) as shown:
            for i in range(WARM_UP + count):
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


def _at_once(job: Job, known: list[tuple[Question, Result]], batch: int, count: int) -> list[dict]:
    """Pictures that are in memory, and whose boxes are known."""
    clock = StageClock()
    job.predictor.stage = clock
    inside = [replace(question.request, box=result.box) for question, result in known if _fits(question, result)]
    if not inside:
        inside = [replace(question.request, box=_middle(question)) for question, _ in known]
    turn = itertools.cycle(inside)
    for _ in range(2 + max(4, count // batch)):
        requests = list(itertools.islice(turn, batch))
        with clock.picture(batch):
            job.predictor.predict_many(requests)
    return clock.rows[2:]


def _mediapipe(rival: MediaPipeLocator, source: Images | Video | LiveCamera, count: int) -> list[dict]:
    """Palms and landmarks of each picture; landmarks where no palm is seen are those of its middle, as of a followed hand."""
    clock, pictures = StageClock(), _pictures(source)
    for _ in range(WARM_UP + count):
        image = next(pictures).image
        with clock.picture():
            with clock("palms"):
                palms = rival.palms(image)
            with clock("landmarks"):
                rival.hands(image, palms if len(palms) else _some_palm(image))
    return clock.rows[WARM_UP:]


def _some_palm(image: np.ndarray) -> np.ndarray:
    """A palm [1, 9, 2] (px) that points upwards in the middle of a picture."""
    height, width = image.shape[:2]
    places = np.array([(-1, -1), (1, 1), (0, 1), (0, 0), (0, -1), *[(0, 0)] * 4])
    return (np.array((width, height)) / 2 + min(width, height) / 8 * places)[None]


def _fits(question: Question, result: Result) -> bool:
    try:
        check_box(result.box, *question.picture.image.shape[:2])
    except InputError:
        return False
    return True


def _middle(question: Question) -> np.ndarray:
    return centred_square(*question.picture.image.shape[:2])


def _print(title: str, rows: list[dict], stages: Sequence[str] = STAGES) -> None:
    say(f"\n{title}, ms a picture   " + "".join(f"{f'p{p}':>9}" for p in PERCENTILES) + f"{'mean':>9}{'share':>8}")
    total = _mean(rows, "total")
    for stage in (*stages, "total"):
        values = 1000 * np.array([row.get(stage, 0.0) for row in rows])
        if values.any():
            cells = "".join(f"{value:9.2f}" for value in (*np.percentile(values, PERCENTILES), values.mean()))
            say(f"  {stage:<26}{cells}{values.mean() / total / 10:7.1f}%")
    say(f"  the stages add up to {100 * _named(rows, stages):.1f} % of the total; {1 / total:.1f} pictures/s")


def _named(rows: list[dict], stages: Sequence[str] = STAGES) -> float:
    return sum(_mean(rows, stage) for stage in stages) / _mean(rows, "total")


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
