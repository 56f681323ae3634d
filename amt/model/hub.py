"""Models under the names that users of the Hugging Face Hub know: ``from_pretrained``, ``save_pretrained``, ``push_to_hub``.

A repository on the hub holds what a checkpoint folder holds (:mod:`amt.model.checkpoint`) and a model card. There is no second
format: ``from_pretrained``, ``amt.load`` and ``load_checkpoint`` read the same files.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

from amt.model.card import model_card
from amt.model.checkpoint import (
    CARD,
    CONFIG,
    FILES,
    HAND,
    METRICS,
    CheckpointError,
    load_locator,
    load_mean_pose,
    load_model,
    save_checkpoint,
)
from amt.model.shipped import checkpoint_folder

if TYPE_CHECKING:
    from amt.model.locator import Locator
    from amt.model.mean_pose import MeanPose

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
LOCAL = (  # keys of config.json whose values are paths of the machine that trained
    "data.root", "data.mano", "data.cache", "data.augment.backgrounds", "model.hand",
    "train.output", "train.checkpoint", "train.finetune",
)  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """What a checkpoint says beside its weights."""

    record: dict[str, Any] = field(default_factory=dict)  # config.json without the model
    mean_pose: MeanPose | None = None  # of the training set
    metrics: dict[str, Any] | None = None  # of the last evaluation
    locator: Locator | None = None  # what finds hands in whole pictures


class Publishable:
    """The hub's three methods, for :class:`~amt.model.AMT`."""

    origin = Origin()  # set by from_pretrained, written by save_pretrained

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, **overrides: Any) -> Self:
        """The model of a checkpoint, in evaluation mode on the CPU.

        Args:
            source: a folder that ``amt.train`` or :meth:`save_pretrained` wrote; "amt-tiny", which comes with the package; or
                a name on the Hugging Face Hub, "owner/model", whose files are downloaded into the hub's cache.
            revision: branch, tag or commit on the hub.
            overrides: model settings that replace the saved ones, such as ``hand=PATH`` of MANO_RIGHT.pkl on this machine.

        Raises:
            CheckpointError: the files are missing, broken or cannot be had; the message says what to do.
            ConfigError, UsageError: an override or the source cannot be; the message names it.
        """
        folder = local_folder(source, revision, "source")
        model, record = load_model(cls, folder, **overrides)
        others = {key: value for key, value in record.items() if key not in ("model", HAND)}
        model.origin = Origin(others, load_mean_pose(folder), _metrics(folder), load_locator(folder))
        return model

    def save_pretrained(self, folder: str | Path, **record: Any) -> Path:
        """Writes a checkpoint with a model card, README.md.

        Record, mean pose and metrics that the model was loaded with go along.

        Args:
            folder: made where it does not exist; a checkpoint that is there is replaced.
            record: further JSON values for config.json.

        Raises:
            CheckpointError: the folder holds files of something else, or cannot be written.
        """
        return self._save(Path(folder), record, Path(folder).name)

    def push_to_hub(
        self, name: str, *, revision: str | None = None, private: bool | None = None, message: str = "AMT checkpoint"
    ) -> str:
        """Uploads a checkpoint with its model card to the Hugging Face Hub. Returns its address.

        Paths of this machine in config.json are cut down to their last part. The token is the hub's own affair
        (``hf auth login`` or HF_TOKEN).

        Args:
            name: "owner/model"; made where it does not exist.
            revision: branch; None: main.
            private: of a new repository.

        Raises:
            CheckpointError: the name is none, or the hub refuses or cannot be reached.
        """
        _check_name(name)
        from huggingface_hub import HfApi

        with TemporaryDirectory() as temporary, _hub_errors(name):
            folder = self._save(Path(temporary) / "checkpoint", {}, name)
            cut_paths(folder / CONFIG)
            api = HfApi(library_name="amt")
            address = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message=message)
        return str(address)

    def _save(self, folder: Path, record: dict[str, Any], title: str) -> Path:
        origin = self.origin
        record = {**origin.record, **record}
        texts = {CARD: model_card(title, {"model": self.config.as_dict(), **record}, origin.metrics)}
        if origin.metrics is not None:
            texts[METRICS] = json.dumps(origin.metrics, indent=2) + "\n"
        return save_checkpoint(folder, self, origin.mean_pose, texts, None, origin.locator, **record)


def local_folder(source: str | Path, revision: str | None = None, argument: str = "checkpoint") -> Path:
    """The folder of a checkpoint: ``source`` itself, the package's own of that name, or where the hub's files were downloaded to.

    Raises:
        CheckpointError: there is no such folder, and no such name can be had from the hub.
        UsageError: ``source`` is neither text nor a path, or empty; the message calls it ``argument``.
    """
    folder = checkpoint_folder(source, argument)
    if folder.exists() or not HUB_NAME.fullmatch(str(source)):
        return folder  # what reads it says what is wrong with it
    from huggingface_hub import snapshot_download

    with _hub_errors(f"{source}: no such folder here, and as a name on the Hugging Face Hub"):
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=[*FILES]))


@contextmanager
def _hub_errors(what: str):
    """A block in which what the hub's client raises becomes a CheckpointError of one line."""
    try:
        yield
    except (OSError, ValueError) as error:  # all errors of the client are one of both
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{what}: {reason} ({type(error).__name__}); see the name, the network, HF_HUB_OFFLINE and `hf auth login`"
        ) from error


def _check_name(name: str) -> None:
    if not HUB_NAME.fullmatch(name):
        raise CheckpointError(f"{name!r} is no name on the Hugging Face Hub; give owner/model")


def _metrics(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / METRICS).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def cut_paths(path: Path) -> None:
    """Cuts the paths in a config.json down to their last part: whoever reads it has another machine."""
    record = json.loads(path.read_text())
    for key in LOCAL:
        *sections, last = key.split(".")
        owner = record
        for section in sections:
            owner = owner.get(section) if isinstance(owner, dict) else None
        if isinstance(owner, dict) and isinstance(owner.get(last), str):
            owner[last] = Path(owner[last]).name
    path.write_text(json.dumps(record, indent=2) + "\n")
