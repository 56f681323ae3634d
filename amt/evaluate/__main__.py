"""``python -m amt.evaluate CHECKPOINT [key=value ...]``: scores a checkpoint beside the mean pose of its training set.

    python -m amt.evaluate CHECKPOINT                                      on the test set of the data that it was trained on
    python -m amt.evaluate CHECKPOINT data.root=FOLDER evaluate.subset=val
    python -m amt.evaluate CHECKPOINT model.hand=MANO_RIGHT.pkl            where MANO's files lie elsewhere than in training

Data settings that are not given are those of the training.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from amt.config import choose_device, compose, help_text, set_threads
from amt.errors import UsageError
from amt.evaluate.config import PROGRAM
from amt.model.checkpoint import read_record
from amt.startup import run_program


def main(arguments: list[str] | None = None) -> int:
    """Evaluates; 0, or 2 after one line that names what was wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("amt.evaluate", lambda: _main(arguments), "interrupted; no figures were written")


def _main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{help_text(PROGRAM)}")
        return 0
    if not arguments:
        raise UsageError("expected the folder of a checkpoint; see python -m amt.evaluate --help")
    folder = Path(arguments[0])
    run(folder, compose(PROGRAM, arguments[1:], read_record(folder)))
    return 0


def run(checkpoint: Path, settings: dict[str, Any]) -> dict:
    """Evaluates a checkpoint folder with composed settings, prints the table, writes metrics.json, returns its content."""
    from tqdm import tqdm

    from amt.data.loader import make_loader, open_reader
    from amt.evaluate.evaluate import collect, score
    from amt.evaluate.report import table, write_json
    from amt.kernels import use
    from amt.model.checkpoint import load_mean_pose
    from amt.model.loading import load_checkpoint
    from amt.model.mean_pose import MeanPose

    data, chosen = settings["data"], settings["evaluate"]
    set_threads(chosen.threads)
    device = choose_device(chosen.device, "evaluate.device")
    model, _ = load_checkpoint(checkpoint, hand=settings["model"].hand)
    reader = open_reader(data, chosen.subset)
    test = make_loader(data, chosen.subset, chosen.batch_size, augment=False, shuffle=False)
    mean_pose = load_mean_pose(checkpoint)
    if mean_pose is None:
        print(
            "the checkpoint holds no mean pose: it is computed from the training set; newer ones hold it",
            file=sys.stderr,
        )
        train = make_loader(data, "train", chosen.batch_size, augment=False, shuffle=False)
        mean_pose = MeanPose.of(tqdm(train, desc="mean pose of the training set", unit="batch"))
    with use(settings["kernels"].use):
        start = time.perf_counter()
        collected = collect(model.to(device), tqdm(test, desc="predicting", unit="batch"), mean_pose, device)
        seconds = time.perf_counter() - start
    figures = {
        "checkpoint": str(checkpoint),
        "data": "synthetic" if reader.record else "recorded",
        "split": data.split,
        "subset": chosen.subset,
        "protocol": data.protocol or "V",
        "box": "true",
        "images_per_second": round(len(collected.joints) / seconds, 1),
        **score(collected, mean_pose),
    }
    path = Path(chosen.output) if chosen.output else checkpoint / "metrics.json"
    write_json(path, figures)
    print(table(figures))
    print(path)
    return figures


if __name__ == "__main__":
    sys.exit(main())
