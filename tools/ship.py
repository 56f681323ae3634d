"""`python -m tools.ship CHECKPOINT DATA` makes amt/model/assets/amt-tiny, the weights that come with the package.

CHECKPOINT is what ``python -m amt.train experiment=amt_tiny`` left, DATA the set that it was trained on. Its test people score
the weights as they ship: matrices and kernels in bfloat16, all else in float32. ``make weights`` does all of it, for hours.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from amt.config import compose
from amt.errors import UserError
from amt.model.checkpoint import CARD, CONFIG, METRICS, WEIGHTS, read_record
from amt.model.shipped import SHIPPED

NAME = "amt-tiny"
LICENSE = "Apache-2.0"
TEXT = """
## Data, people and seeds

{frames:,} rendered scenes of `python -m amt.data.synthetic`: AMT's own hand, objects of this package with the sizes of YCB's,
scikit-image's photographs behind some; in DexYCB's layout, split {split}. Each training frame is a grasp of its own: person,
object, pose, camera, light and background are drawn anew. {scored:,} frames of other people, seen by eight cameras, gave the
figures above; a third group of people chose what was kept. Seeds: {seed} of the weights, 0 of the scenes.
Samples: {samples:,}, of which {steps:,} steps of {batch} images in the last piece, {precision}.
`make weights` rebuilds such weights; `python -m amt.train experiment=amt_tiny train.finetune=amt-tiny train.seed=1 data.root=SET`
trains on, with augmentations that were not drawn before.

## What it cannot do

It has seen no photograph. On real pictures expect a hand of the right place and size with wrong fingers; train on real
frames, such as DexYCB's (`train.finetune=amt-tiny`). It knows 21 objects. Of another one it needs a mesh, with colours if the
rotation is to be found. One hand and one object a crop; a hand without an object was never shown.
Licence: {license}, weights included: neither MANO nor photographs of hands went into them.
"""


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
    """Writes the folder and returns the figures of the test people. Raises UserError: the checkpoint or set cannot be read."""
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
        text = TEXT.format(
            frames=len(open_reader(settings["data"], "train")),
            scored=figures["frames"],
            split=settings["data"].split,
            seed=train["seed"],
            samples=earlier + record["steps"] * train["batch_size"],
            steps=record["steps"],
            batch=train["batch_size"],
            precision=train["precision"],
            license=LICENSE,
        )
        (part / CARD).write_text(model_card(NAME, read_record(part), figures) + text)
    return figures


if __name__ == "__main__":
    sys.exit(main())
