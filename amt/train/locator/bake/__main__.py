"""``python -m amt.train.locator.bake OUT``: makes the locator that ships, amt/model/assets/locator.safetensors, and its card.

Renders scenes into OUT, trains both stages, chooses the threshold on people who were not trained on, and scores it on others.
Give the same command again to train for longer: scenes and state stay in OUT. Users need the asset alone.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amt.errors import UsageError
from amt.startup import Parser, run_program

if TYPE_CHECKING:
    from amt.train.locator.bake.fit import Stages
    from amt.train.locator.bake.scenes import Scenes

SEEDS = {"train": 100, "val": 999, "test": 998}  # of scenes; each scene has a person of its own
OCCLUDED = 0.3  # share of the training's cameras with something before the hand; the others have the renderer's share
HELD_OUT = {"val": 160, "test": 300}  # scenes
VIEWS = {"train": 3, "val": 2, "test": 2}  # cameras of a scene
CARD = """# The locator that ships

Finds hands in whole pictures. A CenterNet-like first stage on {width} × {height} px proposes boxes (`amt/model/locator.py`).
A second one looks at each in a crop of 80 px (`amt/model/verifier.py`): is a hand there, which side, where is its joints' box?

- Licence: Apache-2.0.
- Data: {data}
- Training: {rounds:,} rounds, {pictures:,} pictures and {crops:,} crops, one thread of a CPU.
- Rebuilt by `python -m amt.train.locator.bake OUT`; the same command again trains on.

Figures on rendered scenes of people whom training never saw. The threshold was chosen on the validation people alone.

| | validation | test |
| --- | --- | --- |
{rows}

**Limits.** It has seen no real photograph of a hand, no bare hand without an object, and no scene but AMT's rendered tables.
Its figures say nothing about real pictures; `--locator mediapipe` takes models that have seen real hands.
"""


def main(arguments: list[str] | None = None) -> int:
    """Writes the asset and its card; 0, or 2 after one line that says what was wrong."""
    return run_program("amt.train.locator.bake", lambda: _main(arguments), "interrupted; the same command goes on")


def _main(arguments: list[str] | None) -> int:
    from amt.model.shipped_locator import ASSET

    parser = Parser(prog="python -m amt.train.locator.bake", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for scenes and the state")
    parser.add_argument("--scenes", type=int, default=4000, help="training scenes (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=240.0, help="of training in this call; 0 only scores (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=SEEDS["train"], help="of the training scenes (%(default)s)")
    parser.add_argument(
        "--start", type=Path, metavar="FILE", help="asset whose weights a new state begins with (none: random ones)"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="share of the peak learning rates (%(default)s)")
    parser.add_argument("--asset", type=Path, default=ASSET, help="the file that is written (%(default)s)")
    options = parser.parse_args(arguments)
    if options.scenes < 1 or options.minutes < 0:
        raise UsageError("--scenes must be at least 1, --minutes at least 0")
    if options.seed in (SEEDS["val"], SEEDS["test"]):
        raise UsageError(f"--seed {options.seed} is that of people who are held out; take another")
    if options.rate <= 0:
        raise UsageError(f"--rate must be above 0; got {options.rate}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    training = {"seed": options.seed, "start_from": options.start, "peak": options.rate}
    bake(options.out, options.scenes, options.minutes, options.asset, **training)
    print(options.asset)
    return 0


def bake(
    out: Path,
    scenes: int,
    minutes: float,
    asset: Path,
    held_out: dict[str, int] = HELD_OUT,
    seed: int = SEEDS["train"],
    start_from: Path | None = None,
    peak: float = 1.0,
) -> dict[str, Any]:
    """The figures of both subsets, after the asset and its card are written.

    Args:
        held_out: scenes of each subset.
        seed: of the training scenes.
        start_from, peak: as for :func:`amt.train.locator.bake.fit.fit`.
    """
    import cv2
    import torch
    from tqdm import tqdm

    from amt.train.locator.bake.fit import STATE, Stages, fit
    from amt.train.locator.bake.scenes import CHUNK, read_scenes, render_scenes

    if start_from is not None and not (out / STATE).is_file():
        Stages().begin(start_from)  # a wrong file is told before scenes are rendered
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name, count in {"train": scenes, **held_out}.items():
        more = {"occluded": OCCLUDED} if name == "train" else {}
        files = render_scenes(out / name, seed if name == "train" else SEEDS[name], count, VIEWS[name], **more)
        for _ in tqdm(files, f"{name} scenes", -(-count // CHUNK), unit="file"):
            pass
    seen = read_scenes(out / "train")
    stages = fit(out, seen, minutes, 0, start_from, peak)
    data = (
        f"{len(seen):,} views of {scenes:,} rendered scenes (`amt/data/synthetic`, AMT's own hand, seed {seed}), each\n"
        "  with a person of its own; scikit-image's photographs behind some."
    )
    if stages.begun:
        data += f"\n  The first {stages.begun:,} rounds were on other scenes."
    return publish(stages, {name: read_scenes(out / name) for name in held_out}, asset, data)


def publish(stages: Stages, held_out: dict[str, Scenes], asset: Path, data: str) -> dict[str, Any]:
    """Scores both stages, writes the asset and its card, and returns the figures of each subset.

    Args:
        held_out: scenes of "val", which choose the threshold, and of "test".
        data: the card's sentence on the scenes of the training.
    """
    from amt.data.whole_frames import read_background_frames
    from amt.model.shipped_locator import save_shipped
    from amt.train.locator.bake.fit import CONFIG, CROP_STEPS, CROPS, PICTURE_STEPS, PICTURES
    from amt.train.locator.calibrate import calibrate

    locator, figures = stages.locator(), {}
    for name, scenes in held_out.items():
        threshold = figures["val"]["threshold"] if "val" in figures else None
        figures[name] = calibrate(locator, scenes.frames(read_background_frames()), 0, threshold)
        logging.info("%s: %s", name, ", ".join(f"{key} {value:.4g}" for key, value in figures[name].items()))
    locator.config = replace(locator.config, threshold=figures["val"]["threshold"])
    asset.parent.mkdir(parents=True, exist_ok=True)
    save_shipped(asset, locator, {"figures": figures, "rounds": stages.round})
    rows = "\n".join(
        f"| {key.replace('_', ' ')} | " + " | ".join(f"{figures[name][key]:.4g}" for name in held_out) + " |"
        for key in figures["val"]
    )
    text = CARD.format(
        width=CONFIG.width,
        height=CONFIG.height,
        data=data,
        rows=rows,
        rounds=stages.round,
        pictures=stages.round * PICTURES * PICTURE_STEPS,
        crops=stages.round * CROPS * CROP_STEPS,
    )
    asset.with_suffix(".md").write_text(text)
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
