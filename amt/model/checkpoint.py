"""A checkpoint that users share: a folder with model.safetensors and config.json. Nothing in it can run code."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amt.errors import UserError
from amt.files import new_folder
from amt.model.config import ConfigError, ModelConfig
from amt.model.shipped import hint

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from amt.model.locator import Locator
    from amt.model.mean_pose import MeanPose

Model = TypeVar("Model", bound="Module")  # AMT, whose file imports this one

WEIGHTS, CONFIG = "model.safetensors", "config.json"
METRICS, CARD = "metrics.json", "README.md"  # amt.evaluate writes the first, save_pretrained both
FILES = (WEIGHTS, CONFIG, METRICS, CARD)
SAMPLES, REPORT = "samples.csv", "report.html"  # amt.evaluate leaves them beside METRICS; they are not published
HAND = "hand_digest"  # of config.json: the HandModel that the model was trained with
MEAN_POSE = "mean_pose."  # in front of the names of the mean pose's tensors, which lie beside the weights
LOCATOR = "locator."  # and of the locator's, whose configuration is the section "locator" of config.json


class CheckpointError(UserError, RuntimeError):
    """A checkpoint folder that cannot be read; the message names the file and the remedy."""


def save_checkpoint(
    folder: str | Path,
    model: Module,
    mean_pose: MeanPose | None = None,
    texts: Mapping[str, str] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    locator: Locator | None = None,
    /,
    **record: Any,
) -> Path:
    """Writes the model's weights and configuration. Both appear in one rename: a folder never holds files of two models.

    Args:
        folder: made where it does not exist; a checkpoint that is there is replaced, with all that lies in it.
        model: its configuration goes under "model" in config.json.
        mean_pose: of the training set, what evaluation compares with; None leaves it out.
        texts: further files of the folder by name.
        weights: in place of the model's own, such as an average of them.
        locator: what finds hands in whole pictures; None leaves it out.
        record: further JSON values for config.json (what it was trained on, and how).

    Raises:
        CheckpointError: the folder holds files of something else, or cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    check_free(folder)
    state = dict(model.state_dict() if weights is None else weights)
    state |= {MEAN_POSE + name: tensor for name, tensor in (mean_pose.tensors() if mean_pose else {}).items()}
    if locator is not None:
        state |= {LOCATOR + name: tensor.cpu() for name, tensor in locator.state_dict().items()}
        record["locator"] = {**record.get("locator", {}), **locator.config.as_dict()}
    with new_folder(folder) as part:
        try:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, part / WEIGHTS)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise CheckpointError(f"{folder / WEIGHTS} cannot be written ({error}); make room and try again") from error
        (part / CONFIG).write_text(
            json.dumps({"model": model.config.as_dict(), HAND: model.mano.digest, **record}, indent=2) + "\n"
        )
        for name, text in (texts or {}).items():
            (part / name).write_text(text)
        (part / WEIGHTS).chmod((part / CONFIG).stat().st_mode)  # safetensors makes it readable for its owner only
    return folder


def check_free(folder: str | Path) -> None:
    """Raises CheckpointError where a checkpoint cannot be written to ``folder`` without losing other files."""
    folder = Path(folder)
    known = (*FILES, SAMPLES, REPORT)
    others = sorted(p.name for p in folder.iterdir() if p.name not in known) if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        what = f"holds other files ({others[0]})" if others else "is a file"
        raise CheckpointError(f"{folder}: {what}; name a new folder for the checkpoint")


def read_record(folder: str | Path) -> dict[str, Any]:
    """The whole of config.json, read without PyTorch: a wrong path is told at once.

    Raises:
        CheckpointError: the folder or one of its files is missing, or config.json cannot be read.
    """
    folder = Path(folder)
    if folder.is_file():
        raise CheckpointError(
            f"{folder}: is a file; a checkpoint is the folder of {WEIGHTS} and {CONFIG}; a pickle (.pt, .pth, .ckpt) is never "
            "read, because it can run code"
        )
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder; python -m amt.train writes one{hint(folder)}")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing: a checkpoint holds {WEIGHTS} and {CONFIG}; copy both")
    try:
        record = json.loads((folder / CONFIG).read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / CONFIG} is not JSON ({error}); copy the folder again") from error
    if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
        raise CheckpointError(f'{folder / CONFIG} is not a configuration of this version: it has no section "model"')
    if not isinstance(record["model"].get("hand", ""), str):
        raise CheckpointError(f"{folder / CONFIG}: model.hand must be a name or a path; copy the folder again")
    crop = (record.get("data") or {}).get("crop") or {} if isinstance(record.get("data") or {}, dict) else None
    if not isinstance(crop, dict):
        raise CheckpointError(f"{folder / CONFIG}: data and data.crop must be sections; copy the folder again")
    return record


def weights_digest(folder: str | Path) -> str:
    """SHA-256 of a checkpoint's weights, as ``sha256sum`` prints it. Raises OSError."""
    with open(Path(folder) / WEIGHTS, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_model(
    build: Callable[[ModelConfig], Model], folder: str | Path, **overrides: Any
) -> tuple[Model, dict[str, Any]]:
    """The model in evaluation mode, on the CPU, and the whole of config.json.

    Args:
        build: makes the model of a configuration: the class AMT.
        folder: what :func:`save_checkpoint` wrote.
        overrides: model settings that replace the saved ones, such as ``hand`` where a path differs on this machine.

    Raises:
        CheckpointError: the folder or one of its files is missing, broken, or does not belong to the other.
        ConfigError: an override cannot be, or is one that the weights do not fit; the message names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder, record = Path(folder), read_record(folder)
    try:
        config = ModelConfig.from_dict({**record["model"], **overrides})
    except (ValueError, KeyError, TypeError) as error:
        wrong = _blamed(overrides, lambda given: _is_configuration({**record["model"], **given}))
        if wrong:
            raise ConfigError(f"{wrong}: {error}") from error
        raise CheckpointError(f"{folder / CONFIG} is not a configuration of this version: {error}") from error
    # its own weights come from the checkpoint: looking for pretrained ones would only warn or fail
    config.backbone.weights, config.backbone.require_pretrained = "none", False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*starts at random")
        model = build(config)
    if record.get(HAND, model.mano.digest) != model.mano.digest:
        raise CheckpointError(
            f"{folder}: was trained with another hand model (digest {record[HAND]}) than model.hand={config.hand} "
            f"({model.mano.digest}); name the hand of the training, or train anew"
        )
    try:
        state = own_weights(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder / WEIGHTS} cannot be loaded: {reason}; copy the folder again") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        hand = {"hand": config.hand}
        wrong = _blamed(overrides, lambda given: _fits(build, {**record["model"], **hand, **given}, state))
        if wrong:
            raise ConfigError(
                f"{wrong}: the weights in {folder} do not fit it; leave it out, or change parts by fine-tuning: python -m "
                "amt.train with train.finetune"
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder / WEIGHTS} cannot be loaded: {reason}; copy the folder again") from error
    return model.eval(), record


def _blamed(overrides: Mapping[str, Any], works: Callable[[Mapping[str, Any]], bool]) -> str:
    """The overrides without which a checkpoint ``works``, as "name=value, ..."; "" where it does not work without any."""
    if not overrides or not works({}):
        return ""
    alone = {name: value for name, value in overrides.items() if not works({name: value})}
    return ", ".join(f"{name}={value!r}" for name, value in (alone or overrides).items())


def _is_configuration(values: dict[str, Any]) -> bool:
    try:
        ModelConfig.from_dict(values)
    except (ValueError, KeyError, TypeError):
        return False
    return True


def _fits(build: Callable[[ModelConfig], Module], values: dict[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Has the model of a configuration tensors of these names and shapes? Takes no memory for them."""
    import torch

    if not _is_configuration(values):
        return False
    config = ModelConfig.from_dict(values)
    config.backbone.weights, config.backbone.require_pretrained = "none", False
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*starts at random")
        own = build(config).state_dict()
    return {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in state.items()}


def own_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is the model's own of a checkpoint's tensors. Raises RuntimeError for FP8 weights without their scales."""
    from amt.model.fp8_weights import unpack

    return unpack({name: value for name, value in state.items() if not name.startswith((MEAN_POSE, LOCATOR))})


def load_mean_pose(folder: str | Path) -> MeanPose | None:
    """The mean pose of the training set; None where the checkpoint is older than this entry."""
    from safetensors import safe_open

    from amt.model.mean_pose import MeanPose

    with safe_open(Path(folder) / WEIGHTS, "pt") as file:
        names = [name for name in file.keys() if name.startswith(MEAN_POSE)]  # noqa: SIM118  (not a dict)
        return MeanPose(**{name.removeprefix(MEAN_POSE): file.get_tensor(name) for name in names}) if names else None


def load_locator(folder: str | Path) -> Locator | None:
    """The locator of a checkpoint folder, in evaluation mode on the CPU; None where it holds none.

    Raises:
        CheckpointError: the locator is broken: its configuration, shapes or numbers cannot be.
    """
    from safetensors import SafetensorError, safe_open

    from amt.model.locator import Locator, LocatorConfig

    folder = Path(folder)
    record, remedy = read_record(folder).get("locator"), "train it again (python -m amt.train.locator)"
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            names = [name for name in file.keys() if name.startswith(LOCATOR)]  # noqa: SIM118  (not a dict)
            state = {name.removeprefix(LOCATOR): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be loaded: {error}; copy the folder again") from error
    if not state:
        return None
    try:
        locator = Locator(LocatorConfig.from_dict(record))
        locator.load_state_dict(state)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder}: its locator does not fit its config.json ({reason}); {remedy}") from error
    broken = next((name for name, value in state.items() if not value.isfinite().all()), None)
    if broken is not None:
        raise CheckpointError(f"{folder / WEIGHTS}: {LOCATOR}{broken} holds numbers that are not finite; {remedy}")
    return locator.eval()


def add_locator(folder: str | Path, locator: Locator, figures: Mapping[str, Any]) -> None:
    """Puts a locator into a checkpoint folder, in place of the one that is there; all else stays, byte for byte its content.

    Raises:
        CheckpointError: the folder cannot be read or written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    folder, record = Path(folder), read_record(folder)
    try:
        state = {name: value for name, value in load_file(folder / WEIGHTS).items() if not name.startswith(LOCATOR)}
        state |= {LOCATOR + name: tensor.cpu().contiguous() for name, tensor in locator.state_dict().items()}
        others = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (WEIGHTS, CONFIG)}
        with new_folder(folder) as part:
            save_file(state, part / WEIGHTS)
            record["locator"] = {**figures, **locator.config.as_dict()}
            (part / CONFIG).write_text(json.dumps(record, indent=2) + "\n")
            for name, data in others.items():
                (part / name).write_bytes(data)
            (part / WEIGHTS).chmod((part / CONFIG).stat().st_mode)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{folder}: the locator cannot be added ({error}); see the files and free space"
        ) from error
