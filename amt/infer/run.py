"""A run over images, a video or a camera: prediction in batches or by tracking, pictures and records.

Decoding, prediction, and drawing each have a thread; the main thread writes. One whole image after the other goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amt.data.errors import DataError
from amt.draw.hand_object import HandObject, errors
from amt.draw.pictures import film, panel, sheet
from amt.draw.robot import robot_column
from amt.infer.checks import InputError
from amt.infer.film import open_film
from amt.infer.follow import Follower
from amt.infer.hands import no_hand, predict_hands
from amt.infer.inputs import Images
from amt.infer.job import Job, Question
from amt.infer.live import as_taken
from amt.infer.output import together
from amt.infer.result import Result
from amt.infer.stages import DEPTH, background
from amt.infer.video import LiveCamera, Video
from amt.infer.writers import Writers
from amt.infer.writers.entry import Entry, Setup, about

if TYPE_CHECKING:
    from amt.infer.robots import Robots
    from amt.robot import HandMotion

SHEET_FRAMES = 8  # pictures that the overview of a run over images shows at most


@dataclass(frozen=True)
class Answer:
    """A picture's question and what was found; the drawing, where one is wanted."""

    index: int  # of the picture in its source
    question: Question
    results: tuple[Result, ...]  # one for each hand, at least one: hand_found is False where there is none
    numbers: tuple[int | None, ...] = (None,)  # of the hands in a video, which they keep
    drawn: np.ndarray | None = None
    robots: tuple[HandMotion | None, ...] = ()  # that follow the hands


def run(job: Job, source: Images | Video | LiveCamera) -> tuple[int, int]:
    """Predicts, draws and records every picture; one that cannot be used is told, counted and left out.

    Returns how many pictures were done and how many were left out.

    Raises:
        InputError, DataError: the only picture cannot be used, or a video's camera or box is impossible.
    """
    if isinstance(source, Images) and source.rate is None:
        return _run_images(job, source)
    return _run_video(job, source, source.rate if isinstance(source, Images) else source.film_rate)


def _run_images(job: Job, source: Images) -> tuple[int, int]:
    from tqdm import tqdm

    shown, written = [], 0
    overview = set(np.linspace(0, len(source) - 1, min(SHEET_FRAMES, len(source))).round().astype(int).tolist())

    def draw(answers: Iterator[Answer]) -> Iterator[Answer]:
        with closing(answers):
            for a in answers:
                picture, truth = a.question.picture, a.question.truth
                panels = [
                    panel(picture.image, result, truth if _is_of(result, a, truth) else None, title=picture.name)
                    for result in a.results
                ]
                yield replace(a, drawn=panels[0] if len(panels) == 1 else sheet(_of_one_width(panels)))

    with open_writers(job, None) as writers, tqdm(total=len(source), unit="image", disable=len(source) < 2) as bar:
        robots = _robots(job, None)
        answers = _retargeted(robots, background(_in_batches(job, background(_asked(job, source)))))
        with closing(background(draw(answers)) if job.draw else answers) as finished:
            for a in finished:
                with together():
                    if a.drawn is not None:
                        job.out.picture(f"{a.question.picture.name}.png", a.drawn)
                        if a.index in overview:
                            shown.append(a.drawn)
                    write_answer(writers, job, a)
                written += 1
                bar.update()
    if len(shown) > 1:
        job.out.picture("overview.png", sheet(shown, columns=1 if len(shown) < 3 else 2))
    _close(job, robots)
    return written, job.failed.total()


def _run_video(job: Job, source: Images | Video | LiveCamera, rate: float) -> tuple[int, int]:
    """Follows hands through consecutive frames, and writes what was drawn as overlay.mp4."""
    from tqdm import tqdm

    def draw(answers: Iterator[Answer]) -> Iterator[Answer]:
        with closing(answers):
            for a in answers:
                picture = a.question.picture
                drawn = film(picture.image, a.results, a.question.truth)
                if robots is not None:
                    column = picture.image, a.results, robots.meshes(a.robots), len(drawn), picture.time_s or 0.0
                    drawn = np.concatenate((drawn, robot_column(*column)), axis=1)
                yield replace(a, drawn=drawn)

    written, last, live, steady = 0, 0.0, job.live, rate / source.every
    robots = _robots(job, steady)
    sound, depth = source.path if isinstance(source, Video) else None, DEPTH
    questions = _asked(job, source)
    if live is not None:  # the newest picture, at once
        questions, depth = as_taken(questions, wait=not isinstance(source, LiveCamera)), 1
    with (
        open_writers(job, steady) as writers,
        tqdm(total=len(source) or None, unit="frame") as bar,
        _core_for_drawing(job),
        ExitStack() as stack,
    ):
        filmed = job.draw and job.out is not None
        shown = stack.enter_context(open_film(job.out, "overlay.mp4", rate, sound, job.say)) if filmed else None
        answers = background(_followed(job, background(questions, depth, newest=live is not None)), depth)
        answers = _retargeted(robots, answers)
        finished = stack.enter_context(closing(background(draw(answers), depth) if job.draw else answers))
        for a in finished:
            last = a.question.picture.time_s
            with together():
                if shown is not None:
                    shown.add(a.drawn, last)
                records = write_answer(writers, job, a)
            if live is not None:
                live.show(a.drawn, records, a.question.taken_s)
            written += 1
            bar.update()
    if not isinstance(source, Images) and source.ends_early(last):
        job.say(
            f"{source.path}: the video ends after {last:.1f} s of the {source.seconds:.1f} s that it claims to have"
        )
    _close(job, robots)
    return written, job.failed.total()


@contextmanager
def _core_for_drawing(job: Job) -> Iterator[None]:
    """Leaves one of PyTorch's cores to the stages beside the network, where a video is drawn and nobody chose a number.

    A second thread gains the network little at batch 1, and waits for its core while pictures are drawn and encoded.
    """
    import torch

    before = torch.get_num_threads()
    if job.threads or not job.draw or before < 2 or job.predictor.device.type != "cpu":
        yield
        return
    torch.set_num_threads(before - 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def answers(job: Job, source: Images, left_out: Callable[[Path, Exception], None]) -> Iterator[Answer]:
    """What is found in each picture, on this thread; ``left_out`` takes each that cannot be used."""

    def asked() -> Iterator[tuple[int, Question]]:
        for i in range(len(source)):
            try:
                yield i, job.question(source.read(i))
            except (InputError, DataError) as error:
                left_out(source.paths[i], error)

    return _in_batches(job, asked())


def _asked(job: Job, source: Images | Video | LiveCamera) -> Iterator[tuple[int, Question]]:
    """Decodes each picture, and gives it with its index and what is asked about it. Of a single image, faults are raised."""
    if not isinstance(source, Images):
        for i, picture in enumerate(source):
            yield i, job.question(picture)
        return
    for i in range(len(source)):
        try:
            yield i, job.question(source.read(i))
        except (InputError, DataError) as error:
            if len(source) == 1:
                raise
            job.leave_out(source.paths[i], error)


def _in_batches(job: Job, questions: Iterator[tuple[int, Question]]) -> Iterator[Answer]:
    """Batches are pictures whose numbers divided by the batch size are alike: one that is left out moves no other."""
    with closing(questions):
        waiting: list[tuple[int, Question]] = []
        for asked in questions:
            size = job.predictor.batch_size
            if waiting and asked[0] // size != waiting[0][0] // size:
                yield from _answers(job, waiting)
                waiting = []
            waiting.append(asked)
        yield from _answers(job, waiting)


def _answers(job: Job, waiting: Sequence[tuple[int, Question]]) -> Iterator[Answer]:
    found = predict_hands(job.predictor, [q.request for _, q in waiting], job.side)
    for (i, question), results in zip(waiting, found):
        results = tuple(results) or (no_hand(job.predictor, question.request),)
        yield Answer(i, question, results, (None,) * len(results))


def _followed(job: Job, questions: Iterator[tuple[int, Question]]) -> Iterator[Answer]:
    follower = Follower(job.predictor, job.side, job.smooth)
    with closing(questions):
        for i, question in questions:
            time = question.picture.time_s
            yield Answer(i, question, *follower.next(question.request, i / 30 if time is None else time))


def _robots(job: Job, rate: float | None) -> Robots | None:
    """What follows the hands, where a robot is asked for."""
    if job.robot is None:
        return None
    from amt.infer.robots import Robots

    return Robots(job.robot, job.world, rate)


def _retargeted(robots: Robots | None, answers: Iterator[Answer]) -> Iterator[Answer]:
    """The answers with the robot's hands."""
    with closing(answers):
        for a in answers:
            yield a if robots is None else replace(a, robots=robots.follow(a.index, a.results, a.numbers))


def _close(job: Job, robots: Robots | None) -> None:
    """Tells what there is to tell at the end."""
    for line in () if robots is None else robots.lines():
        print(line)
    job.close()


def open_writers(job: Job, rate: float | None) -> Writers:
    """The files of a run; ``rate`` (frames/s) is that of the frames that are taken of a video."""
    model = job.predictor.model
    faces = model.mano.faces.cpu().numpy()
    vertices = len(model.mano.v_template)
    setup = Setup(
        out=job.out,
        rate=rate,
        num_vertices=vertices,
        num_points=job.predictor.num_points,
        rerun=job.rerun,
        say=job.say,
        robot=job.robot,
        about=about(Path(model.config.hand).name, vertices, faces, job.robot),
    )
    return Writers(job.exports, setup)


def write_answer(writers: Writers, job: Job, answer: Answer) -> list[dict]:
    """Writes an answer to all files; the records of its hands."""
    results, records = finished_hands(job, answer)
    question = answer.question
    writers.add(
        Entry(answer.index, question.picture, results, answer.numbers, tuple(records), question.truth, answer.robots)
    )
    return records


def finished_hands(job: Job, answer: Answer) -> tuple[tuple[Result, ...], list[dict]]:
    """The hands of an answer as they are exported, and the line of predictions.jsonl of each."""
    question = answer.question
    results = tuple(job.finished(question.picture, result) for result in answer.results)
    known = [
        question if _is_of(result, answer, question.truth) else replace(question, truth=None) for result in results
    ]
    return results, [record_of(q, result, number) for q, result, number in zip(known, results, answer.numbers)]


def _is_of(result: Result, answer: Answer, truth: HandObject | None) -> bool:
    """Whether a truth is that of this hand: of the answer's, the nearest."""
    if truth is None:
        return False
    away = [float(np.linalg.norm(r.joints - truth.joints)) for r in answer.results]
    return len(away) == 1 or away[int(np.argmin(away))] == float(np.linalg.norm(result.joints - truth.joints))


def _of_one_width(panels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Panels with white at their right, so that all are as wide as the widest."""
    widest = max(p.shape[1] for p in panels)
    return [np.pad(p, ((0, 0), (0, widest - p.shape[1]), (0, 0)), constant_values=255) for p in panels]


def record_of(question: Question, result: Result, number: int | None = None) -> dict:
    """The line of predictions.jsonl. ``hand``: the number that a hand keeps through a video, null elsewhere."""
    picture, truth = question.picture, question.truth
    compared = truth is not None and result.hand_found
    return {
        "image": str(picture.path),
        "frame": picture.frame,
        "time_s": None if picture.time_s is None else round(picture.time_s, 6),
        "hand": number,
        "notes": list(picture.notes),
        **result.record(),
        **question.sources,
        "errors": {name: round(value, 3) for name, value in errors(result, truth).items()} if compared else None,
    }
