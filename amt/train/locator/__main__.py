"""``python -m amt.train.locator CHECKPOINT [key=value ...]``: trains what finds hands, and puts it into a checkpoint.

    python -m amt.train.locator CHECKPOINT                           on the data that the model was trained on
    python -m amt.train.locator CHECKPOINT data.root=FOLDER train.locator.steps=8000

Nothing of the model changes. ``python -m amt.train train.locator.steps=N`` does the same at its end.
"""

from __future__ import annotations

import sys
from pathlib import Path

from amt.config import Program, choose_device, compose, help_text, set_threads
from amt.errors import UsageError
from amt.model.checkpoint import read_record
from amt.startup import run_program
from amt.train.config import TrainConfig
from amt.train.locator_config import DEFAULT_STEPS

PROGRAM = Program(
    "train.locator",
    {"train": TrainConfig},
    takes=("data*", "train.locator.*", "train.seed", "train.threads", "train.device"),
    without=("data.augment.[!b]*", "data.crop.*"),
)


def main(arguments: list[str] | None = None) -> int:
    """Trains; 0, or 2 after one line that says what was wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("amt.train.locator", lambda: _main(arguments), "interrupted; the checkpoint is as it was")


def _main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{help_text(PROGRAM)}")
        return 0
    if not arguments:
        raise UsageError("expected the folder of a checkpoint; see python -m amt.train.locator --help")
    folder = Path(arguments[0])
    record = read_record(folder)
    settings = compose(PROGRAM, arguments[1:], record)
    train = settings["train"]
    steps = DEFAULT_STEPS if train.locator.steps is None else train.locator.steps
    if not steps:
        raise UsageError("train.locator.steps must be at least 1 here")

    import logging

    from amt.model.checkpoint import add_locator
    from amt.train.locator.train import train_locator

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    set_threads(train.threads)
    device = choose_device(train.device, "train.device")
    locator, figures = train_locator(settings["data"], train.locator, steps, train.seed, device)
    add_locator(folder, locator, figures)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
