"""A run over images or a video: prediction in batches or by tracking, pictures and records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np

from amt.data.errors import DataError
from amt.draw.hand_object import errors
from amt.draw.pictures import film, panel, sheet
from amt.infer.checks import InputError
from amt.infer.inputs import Images
from amt.infer.job import Job, Question
from amt.infer.output import Records
from amt.infer.result import Result
from amt.infer.track import Tracker
from amt.infer.video import Video, VideoFile

SHEET_FRAMES = 8  # pictures that the overview of a run over images shows at most


def run(job: Job, source: Images | Video) -> tuple[int, int]:
    """Predicts, draws and records every picture; one that cannot be used is told, counted and left out.

    Returns how many pictures were done and how many were left out.

    Raises:
        InputError, DataError: no picture has a camera, the only picture cannot be used, or a video's camera or box is
            impossible.
    """
    job.check_camera_known(source)
    if isinstance(source, Video):
        return _run_video(job, source, source.film_rate)
    if source.rate is not None:
        return _run_video(job, source, source.rate)
    return _run_images(job, source)


def _run_images(job: Job, source: Images) -> tuple[int, int]:
    from tqdm import tqdm

    done, shown = 0, []
    overview = set(np.linspace(0, len(source) - 1, min(SHEET_FRAMES, len(source))).round().astype(int).tolist())
    size = job.predictor.batch_size
    with Records(job.out) as records, tqdm(total=len(source), unit="image", disable=len(source) < 2) as bar:
        for start in range(0, len(source), size):
            batch = []
            for i in range(start, min(start + size, len(source))):
                question = _ask(job, source, i, bar)
                if question is not None:
                    batch.append((i, question))
            for (i, question), result in zip(batch, job.predictor.predict_many([q.request for _, q in batch])):
                if job.draw:
                    picture = question.picture
                    drawn = panel(picture.image, result, question.truth, title=picture.name)
                    job.out.picture(f"{picture.name}.png", drawn)
                    if i in overview:
                        shown.append(drawn)
                records.add(_record(question, job.finished(question.picture, result)))
                done += 1
            bar.update(min(size, len(source) - start))
    if job.draw and len(shown) > 1:
        job.out.picture("overview.png", sheet(shown, columns=1 if len(shown) < 3 else 2))
    job.close()
    return done, job.failed.total()


def _run_video(job: Job, source: Images | Video, rate: float) -> tuple[int, int]:
    """Follows one hand through consecutive frames, and writes what was drawn as overlay.mp4, a film of ``rate`` frames/s."""
    from tqdm import tqdm

    done, tracker, last = 0, Tracker(job.predictor), 0.0
    film_file = VideoFile(job.out, "overlay.mp4", rate) if job.draw else nullcontext()
    with Records(job.out) as records, film_file, tqdm(total=len(source) or None, unit="frame") as bar:
        for question in _questions(job, source, bar):
            result = tracker.next(question.request)
            last = question.picture.time_s
            if job.draw:
                film_file.add(film(question.picture.image, result, question.truth), last)
            records.add(_record(question, job.finished(question.picture, result)))
            done += 1
            bar.update()
    if isinstance(source, Video) and source.ends_early(last):
        job.say(
            f"{source.path}: the video ends after {last:.1f} s of the {source.seconds:.1f} s that it claims to have"
        )
    job.close()
    return done, job.failed.total()


def _questions(job: Job, source: Images | Video, bar) -> Iterator[Question]:
    if isinstance(source, Video):
        for picture in source:
            yield job.question(picture)
        return
    for i in range(len(source)):
        question = _ask(job, source, i, bar)
        if question is not None:
            yield question


def _ask(job: Job, source: Images, index: int, bar) -> Question | None:
    """The question about a picture; None where it cannot be used. Raises for the only one."""
    try:
        return job.question(source.read(index))
    except (InputError, DataError) as error:
        if len(source) == 1:
            raise
        bar.clear()
        job.leave_out(source.paths[index], error)
        return None


def _record(question: Question, result: Result) -> dict:
    picture, truth = question.picture, question.truth
    compared = truth is not None and result.hand_found
    return {
        "image": str(picture.path),
        "frame": picture.frame,
        "time_s": None if picture.time_s is None else round(picture.time_s, 6),
        "notes": list(picture.notes),
        **result.record(),
        **question.sources,
        "errors": {name: round(value, 3) for name, value in errors(result, truth).items()} if compared else None,
    }
