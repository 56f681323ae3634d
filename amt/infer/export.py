"""Results beside predictions.jsonl: a table for spreadsheets and pandas, and a recording for the Rerun viewer."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from amt.hand.skeleton import JOINT_NAMES
from amt.infer.inputs import Picture
from amt.infer.output import Lines, OutputFolder
from amt.infer.result import Result

_ABOUT = ("image", "frame", "time_s", "side", "hand_found", "spread", "box_source", "intrinsics_source")
_BOX = ("box_cx_px", "box_cy_px", "box_side_px")
_JOINT = ("x_m", "y_m", "z_m", "x_px", "y_px", "visibility", "sigma_mm")
COLUMNS = (*_ABOUT, *_BOX, *(f"{joint}_{what}" for joint in JOINT_NAMES for what in _JOINT))


class Csv(Lines):
    """``predictions.csv``: a line a hand, with the columns :data:`COLUMNS`; cells are empty where there is nothing to say."""

    def __init__(self, out: OutputFolder, name: str = "predictions.csv"):
        super().__init__(out, name, head=_row(COLUMNS) + "\n")

    def add(self, record: dict, picture: Picture, result: Result) -> None:
        """Writes one line of the ``record`` that predictions.jsonl gets."""
        cells = [record.get(name) for name in _ABOUT] + list(record["box_px"])
        columns = [record["joints_m"], record["joints_px"], record["visibility"], record["sigma_mm"]]
        for joint in range(len(JOINT_NAMES)):
            for values, count in zip(columns, (3, 2, 1, 1)):
                cells += [None] * count if values is None else np.atleast_1d(values[joint]).tolist()
        self.add_line(_row(cells))


def _row(cells) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


class Recording:
    """A recording of hand, object and camera in 3D and in the picture, for the Rerun viewer. Needs the package rerun-sdk.

    A context manager. Each picture is written when it is added, so that a run that is killed leaves what came before.
    """

    def __init__(self, path: Path):
        self.path, self.count = path, 0

    def __enter__(self) -> Recording:
        import rerun

        self.rerun = rerun
        self.stream = rerun.RecordingStream("amt")
        self.stream.save(str(self.path))
        self.stream.log("/", rerun.ViewCoordinates.RDF, static=True)  # x right, y down, z forward
        return self

    def add(self, record: dict, picture: Picture, result: Result) -> None:
        """Adds a picture and its hand; without one the hand of the picture before is cleared."""
        rerun, log = self.rerun, self.stream.log
        self.stream.set_time("picture", sequence=self.count if picture.frame is None else picture.frame)
        if picture.time_s is not None:
            self.stream.set_time("time", duration=picture.time_s)
        self.count += 1
        height, width = picture.image.shape[:2]
        log("camera", rerun.Pinhole(image_from_camera=result.intrinsics, resolution=[width, height]))
        log("camera/image", rerun.Image(picture.image).compress(jpeg_quality=85))
        if not result.hand_found:
            for name in ("hand", "object", "camera/image/joints"):
                log(name, rerun.Clear(recursive=True))
            return
        log("hand/joints", rerun.Points3D(result.joints, radii=0.004))
        log("hand/mesh", rerun.Mesh3D(vertex_positions=result.vertices, triangle_indices=result.faces))
        log("camera/image/joints", rerun.Points2D(result.joints_2d, radii=2.0))
        if result.has_object:
            log("object/points", rerun.Points3D(result.in_camera(result.object_points), radii=0.002))

    def __exit__(self, *_) -> None:
        self.stream.flush()
        self.stream.disconnect()
