"""A folder belongs to one run: another configuration, another set or another model's checkpoint in it is refused by name."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from amt.files import check_writable, recover
from amt.model.checkpoint import check_free, read_record
from amt.train.config import Config, differences, identity
from amt.train.states import StateError

log = logging.getLogger(__name__)
REMEDY = "choose another train.output, or remove the folder to start from scratch"


def check_same_run(config: Config, state: dict[str, Any]) -> None:
    """Raises StateError where the state in ``train.output`` is that of a run with another configuration."""
    output = config.output_folder()
    if "run" not in state:
        difference = "its states are older than this version and do not say of which run they are"
    else:
        difference = differences(state["run"], identity(asdict(config)))
    if difference and config.train.resume != "force":
        raise StateError(f"{output} holds another run ({difference}); {REMEDY}, or accept this with train.resume=force")
    if difference:
        log.warning("%s: continuing all the same: %s", output, difference)


def check_same_data(config: Config, before: str | None, now: str) -> str:
    """The digest of the training set. Raises StateError where it is not the one ``before``, with which the run began."""
    output = config.output_folder()
    if before in (None, now):
        return now
    if config.train.resume != "force":
        raise StateError(
            f"{output}: the frames or labels of the training set have changed since this run began; {REMEDY}, or accept this "
            "with train.resume=force"
        )
    log.warning("%s: continuing all the same on a training set that has changed", output)
    return now


def check_checkpoint(config: Config) -> None:
    """Raises CheckpointError, StateError or UsageError: the result's folder holds other files or another run's model, or
    cannot be written."""
    folder = config.checkpoint_folder()
    recover(folder)
    check_free(folder)
    check_writable(folder.absolute().parent)  # where the checkpoint is written before it takes its place
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    saved, now = identity(read_record(folder)), identity(asdict(config))
    # weights may have changed the backbone's settings
    shared = [key for key in now if key in saved and not key.startswith("model.backbone.")]
    difference = differences({key: saved[key] for key in shared}, {key: now[key] for key in shared})
    if difference and config.train.resume != "force":
        raise StateError(
            f"{folder} holds the model of another run ({difference}); choose another train.output or train.checkpoint, remove "
            "it, or accept this with train.resume=force"
        )
