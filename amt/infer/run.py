"""A run over images or a video: what is known of each frame, prediction in batches or by tracking, pictures and records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from amt.data.errors import BrokenFrame
from amt.infer.draw import film, panel, sheet
from amt.infer.inputs import Images, InputError, Picture
from amt.infer.known import KnownFrame, KnownSets
from amt.infer.locate import square_around
from amt.infer.objects import HeldObject, resolve_object
from amt.infer.output import OutputFolder, Records, VideoFile
from amt.infer.predictor import Predictor, Request
from amt.infer.result import Result, errors

SHEET_FRAMES = 8  # pictures that the overview of a run over images shows at most


@dataclass
class Job:
    """What a run was asked for. ``None`` leaves it to the data set that an image lies in, or to the default."""

    predictor: Predictor
    out: OutputFolder
    intrinsics: np.ndarray | None = None  # [3, 3], px
    fov: float | None = None  # degrees, horizontal
    box: np.ndarray | None = None  # cx, cy, side in px
    search: bool = False  # look for the box even where the data set knows it
    side: str | None = None
    object: str | None = None
    mano: str | None = None  # folder of MANO's files
    draw: bool = True
    sets: KnownSets = field(init=False)
    told: set[str] = field(default_factory=set)

    def __post_init__(self):
        hand = self.predictor.model.config.hand
        trained_on = (self.predictor.record.get("data") or {}).get("mano")
        mano = self.mano or trained_on or (None if hand == "stand-in" else Path(hand).parent)
        self.sets = KnownSets(self.predictor.num_points, mano)
        self.held: HeldObject | None = None
        if self.object is not None:
            self.held = resolve_object(self.object, self.predictor.num_points, self.predictor.models)

    def say(self, line: str) -> None:
        """Prints a line, once a run."""
        if line not in self.told:
            self.told.add(line)
            print(line, file=sys.stderr)

    def request(self, picture: Picture) -> tuple[Request, KnownFrame | None, dict[str, str]]:
        """What to ask the predictor about a picture, what its data set knows, and where K and the box come from."""
        known = None
        if picture.frame is None:
            try:
                known = self.sets.find(picture.path)
            except BrokenFrame as error:  # its labels; the picture itself could be read
                self.say(f"{error} (without it, nothing is known of this image's truth)")
        height, width = picture.image.shape[:2]
        if self.intrinsics is not None:
            intrinsics, source = self.intrinsics, "given"
        elif known is not None:
            intrinsics, source = known.intrinsics, "data set"
        elif self.fov is not None:
            focal = width / 2 / np.tan(np.radians(self.fov) / 2)
            intrinsics, source = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]), "fov"
            self.say(
                f"K is guessed from a field of view of {self.fov:g} degrees: distances are only as good as that guess"
            )
        else:
            raise InputError(
                f"{picture.path}: its camera is not known; give --intrinsics fx,fy,cx,cy, or --fov DEGREES (60 is usual)"
            )
        box, side, held = self.box, self.side or "right", self.held
        if known is not None:
            side, held = self.side or known.side, self.held or known.held
            box = known.box if box is None and not self.search else box
            self.say(
                f"{picture.path.absolute().parents[3]}: a data set; what is not given (K, hand side, object, true box) is "
                "taken from it, and the truth is drawn beside"
            )
        sources = {"intrinsics_source": source}
        if box is not None:
            sources["box_source"] = "given" if box is self.box else "data set"
        return Request(picture.image, intrinsics, box, side, held), known, sources


def run_images(job: Job, source: Images, complain: Callable[[object], None]) -> tuple[int, int]:
    """Predicts, draws and records every image; a broken one is told and left out.

    Returns how many images were done and how many failed. Raises InputError if the only image fails, or if its camera is
    not known.
    """
    from tqdm import tqdm

    done, failed, shown = 0, 0, []
    overview = set(np.linspace(0, len(source) - 1, min(SHEET_FRAMES, len(source))).round().astype(int).tolist())
    size = job.predictor.batch_size
    with Records(job.out) as records, tqdm(total=len(source), unit="image", disable=len(source) < 2) as bar:
        for start in range(0, len(source), size):
            batch = []
            for i in range(start, min(start + size, len(source))):
                try:
                    picture = source.read(i)
                except InputError as error:
                    if len(source) == 1:
                        raise
                    bar.clear()
                    complain(error)
                    failed += 1
                    continue
                batch.append((i, picture, *job.request(picture)))
            for (i, picture, _, known, sources), result in zip(
                batch, job.predictor.predict_many([b[2] for b in batch])
            ):
                truth = None if known is None else known.truth
                if job.draw:
                    drawn = panel(picture.image, result, truth, title=picture.name)
                    job.out.picture(f"{picture.name}.png", drawn)
                    if i in overview:
                        shown.append(drawn)
                records.add(_record(picture, result, sources, known))
                done += 1
            bar.update(min(size, len(source) - start))
    if job.draw and len(shown) > 1:
        job.out.picture("overview.png", sheet(shown, columns=1 if len(shown) < 3 else 2))
    return done, failed


def run_video(job: Job, frames: Iterable[Picture], rate: float, total: int) -> tuple[int, int]:
    """Follows one hand through consecutive frames, and writes what was drawn as overlay.mp4; returns (frames done, 0).

    Each frame is looked at where the one before it had the hand; where that leads astray, from the middle again.
    """
    from tqdm import tqdm

    done, near = 0, None
    film_file = VideoFile(job.out, "overlay.mp4", rate) if job.draw else nullcontext()
    with Records(job.out) as records, film_file, tqdm(total=total or None, unit="frame") as bar:
        for picture in frames:
            request, known, sources = job.request(picture)
            result = _follow(job.predictor, request, near)
            near = _square_after(result, job.predictor.box_scale)
            if job.draw:
                film_file.add(film(picture.image, result, None if known is None else known.truth))
            records.add(_record(picture, result, sources, known))
            done += 1
            bar.update()
    if done < total:
        job.say(f"the video ends after {done} of {total} frames that it claims to have")
    return done, 0


def _follow(predictor: Predictor, request: Request, near: np.ndarray | None) -> Result:
    """Looks near the last square first; a search that does not come to rest there begins in the middle again."""
    result = predictor.predict_many([replace(request, near=near)])[0]
    if near is None or request.box is not None or result.box_settled:
        return result
    return predictor.predict_many([request])[0]


def _square_after(result: Result, scale: float) -> np.ndarray | None:
    """Where to look in the next frame: around the joints as they are now; None, in the middle, after a failed search."""
    if not result.box_settled or not np.isfinite(result.joints_2d).all():
        return None
    return square_around(result.joints_2d, scale)


def _record(picture: Picture, result: Result, sources: dict[str, str], known: KnownFrame | None) -> dict:
    truth = None if known is None else known.truth
    return {
        "image": str(picture.path),
        "frame": picture.frame,
        "time_s": picture.time_s,
        **result.record(),
        **sources,
        "errors": None if truth is None else {name: round(value, 3) for name, value in errors(result, truth).items()},
    }
