"""``python -m tools.ho3d_predictions CHECKPOINT FOLDER``: predicts HO-3D's evaluation set in the form that its challenge scores.

Of that set's hands the wrist alone is public. The challenge takes pred.zip with one file, pred.json: the joints [21, 3] of every
frame, then the vertices [778, 3], in the order of evaluation.txt, in metres and OpenGL's camera frame (the set's public
documentation, github.com/shreyashampali/ho3d). A frame that cannot be read gets zeros, is counted and named.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from amt.data.crops import square_around
from amt.data.errors import BrokenFrame, DataError
from amt.data.ho3d import HO3D, hand_corners, to_opengl
from amt.infer.predictor import Predictor, Request, load
from amt.model.checkpoint import CheckpointError

VERTICES = 778  # MANO's, which the challenge compares
BATCH = 64  # frames that are read before they are predicted


def predict(predictor: Predictor, reader: HO3D, told: Callable[[int], None]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Joints [21, 3] and vertices of every frame, as pred.json holds them. Broken frames are counted in ``reader.broken``.

    Raises DataError: the predictor's hand is not MANO's.
    """
    for start in range(0, len(reader), BATCH):
        indices = range(start, min(start + BATCH, len(reader)))
        requests = {}
        for index in indices:
            try:
                requests[index] = _request(predictor, reader, index)
            except BrokenFrame as error:
                reader.note_broken(error)
        results = dict(zip(requests, predictor.predict_many(list(requests.values()))))
        for index in indices:
            if index not in results:
                yield np.zeros((21, 3)), np.zeros((VERTICES, 3))
                continue
            result = results[index]
            if len(result.vertices) != VERTICES:
                raise DataError(
                    f"the checkpoint's hand has {len(result.vertices)} vertices, and the challenge compares MANO's {VERTICES}; "
                    "train with model.hand=MANO_RIGHT.pkl"
                )
            yield to_opengl(result.joints, result.vertices)
        told(len(indices))


def _request(predictor: Predictor, reader: HO3D, index: int) -> Request:
    frame = reader[index]
    box = square_around(hand_corners(frame), predictor.box_scale)
    known = frame.sequence.class_id if predictor.models is not None else 0
    return Request(frame.image(), frame.intrinsics, box, "right", known or None)


def write(path: Path, found: Iterator[tuple[np.ndarray, np.ndarray]]) -> int:
    """Writes pred.zip, whole or not at all; the number of frames."""
    rows = [(_text(joints), _text(vertices)) for joints, vertices in found]
    partial = path.with_name(f".partial-{path.name}")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pred.json", "[" + ",".join(f"[{','.join(column)}]" for column in zip(*rows)) + "]")
    partial.replace(path)
    return len(rows)


def _text(points: np.ndarray) -> str:
    return json.dumps(np.round(points.astype(np.float64), 6).tolist(), separators=(",", ":"))


def main(arguments: list[str] | None = None) -> int:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(prog="python -m tools.ho3d_predictions", description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("folder", help="HO-3D version 3")
    parser.add_argument("--mano", required=True, metavar="FOLDER", help="with MANO_RIGHT.pkl")
    parser.add_argument("--out", type=Path, default=Path("pred.zip"), metavar="FILE", help="(default %(default)s)")
    options = parser.parse_args(arguments)
    models = Path(options.folder) / "models"
    try:
        reader = HO3D(options.folder, subset="test", mano=options.mano)
        predictor = load(options.checkpoint, models=models if models.is_dir() else None)
        with tqdm(total=len(reader), unit="frame") as bar:
            count = write(options.out, predict(predictor, reader, bar.update))
    except (DataError, CheckpointError, OSError, ValueError) as error:
        print(f"tools.ho3d_predictions: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {count} frames" + (f"; {reader.report()}" if reader.broken else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
