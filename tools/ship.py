"""`python -m tools.ship CHECKPOINT DATA` makes amt/model/assets/amt-tiny, the weights that come with the package.

CHECKPOINT is what ``python -m amt.train experiment=amt_tiny`` left, DATA the set that it was trained on. Its test people score
the weights as they ship: matrices and kernels in bfloat16, all else in float32. ``make weights`` does all of it, for hours.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amt.config import compose
from amt.errors import UsageError, UserError
from amt.model.checkpoint import CARD, CONFIG, FILES, METRICS, WEIGHTS, read_record
from amt.model.shipped import SHIPPED

if TYPE_CHECKING:
    from amt.data.reader import Reader

NAME = "amt-tiny"
LICENSE = "Apache-2.0"
GOALS = (  # label, key of metrics.json, goal: at most in mm and degrees, at least in shares
    ("wrist-aligned MPJPE, mm", "wrist_aligned_mpjpe_mm", 15.0),
    ("Procrustes MPJPE, mm", "procrustes_mpjpe_mm", 7.0),
    ("object ADD-S, mm", "adds_mm", 25.0),
    ("object rotation, median, degrees", "rotation_median_deg", 30.0),
)
ABOVE_MASK, OBJECT_F1 = 0.15, 0.4  # contact F1: on the hand above the best constant mask's, on the object
TEXT = """
## Goals

Contact F1 on the hand is meant to be {above} above that of the best constant mask.

{goals}

## Data, people and seeds

{frames:,} frames of {grasps:,} grasps, rendered by `python -m amt.data.synthetic`: AMT's own hand, objects of this package with
the sizes of YCB's, scikit-image's photographs behind some; in DexYCB's layout, split {split}.{drawn}{earlier}
{scored:,} frames of {other_grasps:,} grasps by other people, seen by {cameras} cameras, gave the figures above; a third group of
people chose what was kept. Seeds: {seed} of the weights, {scene_seed} of the scenes.
Samples: {samples:,}, of which {steps:,} steps of {batch} images in the last piece, {precision}.
`make weights` rebuilds such weights.
`python -m amt.train experiment=amt_tiny train.finetune=amt-tiny train.seed={next_seed} data.root=SET`
trains on, with augmentations that were not drawn before.

## What it cannot do

It has seen no photograph. On real pictures expect a hand of the right place and size with wrong fingers; train on real
frames, such as DexYCB's (`train.finetune=amt-tiny`).
By name it knows the shapes of 21 objects, not how they look. It finds an object's rotation only where `models=` (`--models`)
names a folder with coloured meshes, or where the object is given as a coloured mesh file; the figures above had the set's.
Another object must be given by its mesh, its points or its box.
One hand and one object a crop; a hand without an object was never shown.
Neither MANO nor photographs of hands went into the weights.
"""
DRAWN = "\nPerson, object, pose, camera, light and background of each are drawn anew."
EARLIER = "\nEarlier pieces ({:,} samples) may have seen fewer scenes; docs/log.md tells."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.ship", description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=SHIPPED[NAME], help="the folder that is written (%(default)s)")
    parser.add_argument("--earlier", type=int, default=0, help="samples of the pieces before this one")
    options = parser.parse_args(arguments)
    try:
        ship(options.checkpoint, options.data, options.out, options.earlier)
    except UserError as error:
        print(f"tools.ship: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


def ship(checkpoint: Path, data: Path, out: Path, earlier: int = 0) -> dict[str, Any]:
    """Writes the folder and returns the figures of the test people.

    Raises UserError: the checkpoint or set cannot be read, or ``out`` holds what would be lost.
    """
    if earlier < 0:
        raise UsageError(f"--earlier {earlier}: must be 0 or more; give the samples of the pieces before this one")
    check_out(out, checkpoint)
    import torch
    from safetensors.torch import load_file, save_file

    from amt.data.loader import open_reader
    from amt.evaluate.config import PROGRAM
    from amt.evaluate.run import run
    from amt.files import new_folder
    from amt.model.card import model_card
    from amt.model.checkpoint import MEAN_POSE
    from amt.model.hub import cut_paths

    record = read_record(checkpoint)
    state = {
        name: value.to(torch.bfloat16) if value.dim() > 1 and not name.startswith(MEAN_POSE) else value
        for name, value in load_file(checkpoint / WEIGHTS).items()
    }
    with new_folder(out) as part:
        save_file(state, part / WEIGHTS)
        (part / WEIGHTS).chmod(0o644)
        (part / CONFIG).write_text(json.dumps({**record, "license": LICENSE}, indent=2) + "\n")
        settings = compose(PROGRAM, [f"data.root={data}", "evaluate.report=off"], read_record(part))
        figures = run(part, settings)
        cut_paths(part / CONFIG)
        metrics = json.loads((part / METRICS).read_text())
        (part / METRICS).write_text(json.dumps({**metrics, "checkpoint": NAME}, indent=2) + "\n")
        for extra in set(part.iterdir()) - {part / WEIGHTS, part / CONFIG, part / METRICS}:
            extra.unlink()  # a row a frame: megabytes that nobody asks for
        train = record["train"]
        trained, scored = (open_reader(settings["data"], subset) for subset in ("train", "test"))
        frames, (grasps, _), (other_grasps, cameras) = len(trained), seen(trained), seen(scored)
        text = TEXT.format(
            above=ABOVE_MASK,
            goals=goals(figures),
            frames=frames,
            grasps=grasps,
            drawn=DRAWN if frames == grasps else "",
            earlier=EARLIER.format(earlier) if earlier else "",
            scored=figures["frames"],
            other_grasps=other_grasps,
            cameras=cameras,
            scene_seed=trained.record.get("seed", "unknown"),
            split=settings["data"].split,
            seed=train["seed"],
            next_seed=train["seed"] + 1,
            samples=earlier + record["steps"] * train["batch_size"],
            steps=record["steps"],
            batch=train["batch_size"],
            precision=train["precision"],
        )
        (part / CARD).write_text(model_card(NAME, read_record(part), figures) + text)
    return figures


def check_out(out: Path, checkpoint: Path) -> None:
    """Raises UsageError where writing to ``out`` would lose other files, or the checkpoint itself."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; name a new folder")
    same = out.resolve() == checkpoint.resolve()
    if same and out.resolve() != SHIPPED[NAME].resolve():  # whose weights are rounded already
        raise UsageError(f"--out {out}: is the checkpoint itself, whose weights would be rounded; name a new folder")
    others = sorted(path.name for path in out.iterdir() if path.name not in FILES) if out.is_dir() else []
    if others:
        raise UsageError(f"--out {out}: holds other files ({others[0]}); name a new folder")


def seen(reader: Reader) -> tuple[int, int]:
    """Distinct grasps and cameras among a reader's frames."""
    indices = range(len(reader)) if reader.limit is None else [reader[i].index for i in range(len(reader))]
    places = [reader.locate(index) for index in indices]
    return len({info.folder for info, *_ in places}), len({camera for _, camera, _ in places})


def goals(figures: dict[str, Any]) -> str:
    """A table of the goals and by how much the figures miss them."""
    from amt.model.card import number

    rows = [(label, figures.get(key), goal, 1) for label, key, goal in GOALS]
    mask = figures["baseline"].get("contact_f1")
    if mask is not None:
        rows.append(("contact F1, hand vertices", figures.get("contact_f1"), mask + ABOVE_MASK, -1))
    rows.append(("contact F1, object points", figures.get("object_contact_f1"), OBJECT_F1, -1))
    lines = ["| | this model | goal | missed by |", "| --- | --- | --- | --- |"]
    for label, value, goal, sign in rows:
        if value is not None:
            missed = sign * (value - goal)
            lines.append(f"| {label} | {number(value)} | {number(goal)} | {number(missed) if missed > 0 else 'met'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
