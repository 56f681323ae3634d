"""What the worker does with an upload: a picture with its files, a webcam's frame, a clip frame by frame.

Everything here runs on the worker's thread (:mod:`amt.infer.serve.jobs`). What goes to the page is plain data for JSON.
"""

from __future__ import annotations

import base64
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from amt.data.errors import FileError
from amt.data.images import read_image
from amt.draw.pictures import film, overlay
from amt.draw.viewer import Shown, scene_data
from amt.infer.cameras import as_camera
from amt.infer.checks import InputError
from amt.infer.film import open_film
from amt.infer.follow import Follower
from amt.infer.hands import no_hand, predict_hands
from amt.infer.inputs import Picture
from amt.infer.job import Job, Question
from amt.infer.output import OutputError, OutputFolder
from amt.infer.result import Result
from amt.infer.run import Answer, finished_hands, open_writers, write_answer
from amt.infer.serve.asked import Asked
from amt.infer.serve.clips import DecodedClip
from amt.infer.serve.measures import measures
from amt.infer.serve.results import Results
from amt.infer.serve.uploads import Limits, Refused, Upload

EXPORTS = ("npz", "csv")
OFFERED = ("overlay.png", "overlay.mp4", "predictions.jsonl", "predictions.npz", "predictions.csv")  # in this order
SHOWN_SIDE = 1280  # px: longest side of the drawing that the page shows
QUALITY = 85  # of a JPEG picture, 0-100
MOST_STREAMS = 8  # webcams that are followed at once
FORGOTTEN_S = 10.0  # after which a webcam's place can be taken by another
HEAVY = ("hand_contact", "mano_pose_rad", "mano_betas", "mano_translation_m", "mano_joints_m", "notes", "errors")


@dataclass(frozen=True)
class Sent:
    """An upload with the fields that came with it."""

    upload: Upload
    asked: Asked


class Answers:
    """Answers about uploads.

    Args:
        base: the run's settings; what the form leaves out is taken from it.
        results: takes the files that can be downloaded.
    """

    def __init__(self, base: Job, results: Results, limits: Limits):
        self.base, self.results, self.limits = base, results, limits
        self._streams: OrderedDict[str, _Stream] = OrderedDict()

    def pictures(self, sent: Sequence[Sent]) -> list[dict | Exception]:
        """Answers about single pictures, predicted together; each with files to download."""
        answers: list[dict | Exception | None] = [None] * len(sent)
        asked: list[tuple[int, Job, Question]] = []
        for i, one in enumerate(sent):
            try:
                job = self._job(one.asked)
                asked.append((i, job, _question(job, self._picture(one.upload), one.upload.name)))
            except Exception as error:
                answers[i] = plain(error, one.upload)
        start = time.perf_counter()
        for side in {job.side for _, job, _ in asked}:
            same = [entry for entry in asked if entry[1].side == side]
            for (i, job, question), found in zip(same, self._predict([q for _, _, q in same], side)):
                try:
                    if isinstance(found, Exception):
                        raise found
                    answers[i] = self._written(job, question, found, start)
                except Exception as error:
                    answers[i] = plain(error, sent[i].upload)
        return answers

    def frames(self, sent: Sequence[Sent]) -> Iterator[dict | Exception]:
        """Answers about frames of webcams, one after the other; nothing is written."""
        for one in sent:
            try:
                yield self._frame(one)
            except Exception as error:
                yield plain(error, one.upload)

    def _frame(self, sent: Sent) -> dict:
        start = time.perf_counter()
        stream = self._stream(sent.asked)
        question = _question(stream.job, self._picture(sent.upload), "camera")
        now = time.monotonic()
        results, numbers = stream.follower.next(question.request, now - stream.begun)
        answer = Answer(stream.count, question, results, numbers)
        stream.count, stream.used = stream.count + 1, now
        _, records = finished_hands(stream.job, answer)
        return _told(answer, records, start)

    def _stream(self, asked: Asked) -> _Stream:
        """The webcam's follower; a new one where the form's fields have changed."""
        kept = self._streams.pop(asked.stream, None)
        if kept is None or kept.asked != asked:
            now = time.monotonic()
            if kept is None and len(self._streams) >= MOST_STREAMS:
                oldest = next(iter(self._streams))
                if now - self._streams[oldest].used < FORGOTTEN_S:
                    raise Refused(503, f"busy: {MOST_STREAMS} webcams are followed already; try again in a moment")
                del self._streams[oldest]
            job = self._job(asked)
            kept = _Stream(asked, job, Follower(job.predictor, job.side, job.smooth), now, now)
        self._streams[asked.stream] = kept
        return kept

    def _job(self, asked: Asked) -> Job:
        """The settings of one upload. Raises InputError."""
        base = self.base
        camera = base.camera if asked.intrinsics is None else as_camera(asked.intrinsics, base.lens)
        return replace(
            base,
            camera=None if asked.fov is not None else camera,
            fov=asked.fov if asked.fov is not None else None if camera is not None else base.fov,
            box=base.box if asked.box is None else np.array(asked.box),
            side=asked.side or base.side,
            object=asked.object or base.object,
            quiet=True,
            told=set(),
            failed=type(base.failed)(),
            notes=type(base.notes)(),
        )

    def _picture(self, upload: Upload) -> Picture:
        image, notes = read_image(upload.path, self._check)
        return Picture("overlay", image, upload.path, notes=notes)

    def _check(self, size: tuple[int, int]) -> None:
        if size[0] * size[1] > self.limits.picture_pixels:
            raise InputError(f"the picture has {size[1]} x {size[0]} px, which is too many")

    def _predict(self, questions: list[Question], side: str | None) -> list:
        """The hands of each picture, or what went wrong with it: a fault in one of them leaves the others alone."""
        try:
            return list(predict_hands(self.base.predictor, [q.request for q in questions], side))
        except Exception as error:
            if len(questions) == 1:
                return [error]
            return [self._predict([question], side)[0] for question in questions]

    def _written(self, job: Job, question: Question, found: list, start: float) -> dict:
        """The answer about a picture, with its files."""
        results = tuple(found) or (no_hand(job.predictor, question.request),)
        answer = Answer(0, question, results, (None,) * len(results))
        key, folder = self.results.folder()
        try:
            job.out, job.exports = OutputFolder(folder), EXPORTS
            with open_writers(job, None) as writers:
                records = write_answer(writers, job, answer)
            drawn = question.picture.image
            for result in map(shown, results):
                drawn = overlay(drawn, result, scale=max(1.0, drawn.shape[0] / 640))
            job.out.picture("overlay.png", drawn)
            job.out.picture("shown.jpg", small(drawn))
            told = _told(answer, records, start)
            files = self.results.publish(key, job.out.written)
        except BaseException:
            self.results.drop(key)
            raise
        return told | {"kind": "picture", "result": key, "files": _offered(files)}


@dataclass
class _Stream:
    asked: Asked
    job: Job
    follower: Follower
    begun: float  # time.monotonic()
    used: float
    count: int = 0


class Clip:
    """A clip that is worked on frame by frame, as the page takes the answers.

    :meth:`open` and :meth:`fetch` wait for the decoder, on any thread; :meth:`next` and :meth:`close` are the worker's.
    """

    def __init__(self, answers: Answers, sent: Sent):
        self.answers, self.sent, self._frames, self.video, self._picture = answers, sent, None, None, None
        self.key, self.folder = answers.results.folder()

    def open(self) -> dict:
        """Looks at the container; what is known of the clip. Raises InputError, Refused."""
        upload, limits = self.sent.upload, self.answers.limits
        try:
            self.job = self.answers._job(self.sent.asked)
            self.video = DecodedClip(upload.path, limits)
            self.job.out, self.job.exports = OutputFolder(self.folder), EXPORTS
        except Exception as error:
            raise plain(error, upload) from error
        self._pictures, self._frames = iter(self.video), self._work()
        rate = round(self.video.film_rate, 3)
        return {"kind": "clip", "name": upload.name, "frames": self.video.frames, "rate": rate}

    def fetch(self) -> None:
        """Waits for the next frame. Raises InputError where the decoder takes too long."""
        try:
            self._picture = next(self._pictures, None)
        except Exception as error:
            raise plain(error, self.sent.upload) from error

    def next(self) -> dict | None:
        """The answer about the frame that was fetched, at the end what can be downloaded, and then None."""
        try:
            return next(self._frames, None)
        except Exception as error:
            raise plain(error, self.sent.upload) from error

    def close(self) -> None:
        """Leaves the clip; an unfinished one leaves nothing behind."""
        if self._frames is not None:
            self._frames.close()
        if self.video is not None:
            self.video.close()
        if self.answers.results.find(self.key, "predictions.jsonl") is None:
            self.answers.results.drop(self.key)

    def _work(self) -> Iterator[dict]:
        job, name, most = self.job, self.sent.upload.name, self.answers.limits.frames
        follower, notes = Follower(job.predictor, job.side, job.smooth), []
        rate, done = self.video.film_rate, 0
        with (
            open_writers(job, rate) as writers,
            open_film(job.out, "overlay.mp4", rate, None, notes.append) as made,
        ):
            while (picture := self._picture) is not None:
                if done == most:
                    notes.append(f"the clip is longer than {most} frames; the first {most} were taken")
                    break
                start = time.perf_counter()
                question = _question(job, picture, name)
                answer = Answer(done, question, *follower.next(question.request, picture.time_s))
                drawn = film(picture.image, tuple(map(shown, answer.results)))
                made.add(drawn, picture.time_s)
                told = _told(answer, write_answer(writers, job, answer), start)
                done += 1
                yield told | {"kind": "frame", "frame": picture.frame, "time_s": picture.time_s, "jpeg": as_jpeg(drawn)}
        if self.video.broken_off:
            notes.append(f"the clip cannot be decoded behind its frame {done}")
        files = _offered(self.answers.results.publish(self.key, job.out.written))
        yield {"kind": "end", "frames": done, "notes": notes, "result": self.key, "files": files}


def _offered(names: Sequence[str]) -> list[str]:
    """The files that the page offers, in its order."""
    return [name for name in OFFERED if name in names]


def _question(job: Job, picture: Picture, name: str) -> Question:
    """What is asked about a picture, which from here on has the name that its sender gave it."""
    question = job.question(picture)
    return replace(question, picture=replace(question.picture, path=Path(name)))


def _told(answer: Answer, records: Sequence[dict], start: float) -> dict:
    """What the page is told of a picture: its hands with numbers and points, the camera, and what had to be chosen."""
    height, width = answer.question.picture.image.shape[:2]
    found = [
        {
            "number": number,
            "record": {name: value for name, value in record.items() if name not in HEAVY},
            "measures": measures(shown(result)),
            "scene": scene_data(Shown(f"{result.side} hand", shown(result))),
        }
        for result, record, number in zip(answer.results, records, answer.numbers)
        if result.hand_found
    ]
    first = records[0]
    return {
        "width": width,
        "height": height,
        "hands": found,
        "camera": {
            "source": first["intrinsics_source"],
            "intrinsics_px": first["intrinsics_px"],
            "assumed_deg": first["intrinsics_assumed_deg"],
        },
        "notes": list(answer.question.picture.notes),
        "ms": round(1000 * (time.perf_counter() - start), 1),
    }


def shown(result: Result) -> Result:
    """The result as the page shows it: contact is that with an object, and without one there is none."""
    return result if result.has_object else replace(result, hand_contact=None)


def small(picture: np.ndarray) -> np.ndarray:
    """The picture, or a smaller copy whose longer side has 1,280 px."""
    import cv2

    zoom = SHOWN_SIDE / max(picture.shape[:2])
    if zoom >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * zoom)), max(1, round(picture.shape[0] * zoom)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def as_jpeg(picture: np.ndarray) -> str:
    """base64 of a JPEG file of the picture, uint8 [H, W, 3], RGB."""
    import cv2

    colours = cv2.cvtColor(small(picture), cv2.COLOR_RGB2BGR)
    return base64.b64encode(cv2.imencode(".jpg", colours, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]).decode()


def plain(error: Exception, upload: Upload) -> Exception:
    """The error as the page tells it: with the file's name, not with a path of this machine."""
    if isinstance(error, FileError):
        return Refused(400, f"{upload.name}: {error.reason}; {error.remedy}")
    if isinstance(error, InputError):
        return Refused(400, str(error).replace(str(upload.path), upload.name))
    if isinstance(error, (OutputError, OSError)):
        return Refused(507, "the server cannot write its results; free space where its temporary files are")
    return error
