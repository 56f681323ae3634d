"""Composes and checks the configuration of every program: ``key=value`` means the same in each.

The keys are fields of dataclasses that stand beside what they configure, in modules that import neither PyTorch nor NumPy: a
wrong word is told before those load. Hydra composes YAML groups (``amt/configs``) and words of the command line over the
dataclasses' defaults, or over the configuration of a checkpoint.

A program describes itself by a :class:`Program`; :func:`compose` gives it its sections as checked dataclasses::

    program = Program("evaluate", {"evaluate": EvaluateConfig}, takes=("model.hand", "data*", "evaluate.*", "kernels*"))
    arguments, words = split_words(sys.argv[1:])
    settings = compose(program, words, checkpoint=read_record(folder))
    settings["data"].root, settings["kernels"].use
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from amt.data.config import DataConfig
from amt.errors import UserError
from amt.hand.skeleton import SHIPPED_HAND
from amt.model.config import ConfigError, ModelConfig
from amt.startup import IMPLEMENTATIONS
from amt.words import is_plain, is_sweep, key_of, without_options, wrong_words

if TYPE_CHECKING:
    import torch

OWNERS = {
    "train": "amt.train",
    "evaluate": "amt.evaluate",
    "infer": "amt.infer",
    "debug": "amt.debug",
}  # sections that belong to one program
PATHS = {  # keys whose path must exist, and the remedy
    "data.root": "give the folder of the set",
    "data.mano": "give the folder of MANO_RIGHT.pkl and MANO_LEFT.pkl",
    "model.hand": "give the path of MANO_RIGHT.pkl on this machine",
}
FOLLOWS_MODEL = "data.crop.size"  # model.crop_size unless somebody gives another, which is refused
START_FROM = "train.finetune"  # a checkpoint whose weights a run begins with
GROUPS = ("model", "data", "train", "kernels", "experiment")


@dataclass(frozen=True)
class KernelsConfig:
    """Which implementation of the ops runs."""

    use: str = field(  # auto, reference, native, triton or cuda; the default is the variable AMT_KERNELS, or auto
        default_factory=lambda: os.environ.get("AMT_KERNELS", "auto")
    )

    def __post_init__(self):
        if self.use not in IMPLEMENTATIONS:
            where = " (from AMT_KERNELS)" if self.use == os.environ.get("AMT_KERNELS") else ""
            raise ConfigError(f"kernels.use must be one of {', '.join(IMPLEMENTATIONS)}; got {self.use!r}{where}")


@dataclass(frozen=True)
class Program:
    """What a program can be told.

    Args:
        name: ``python -m amt.<name>``.
        own: its own sections beside model, data and kernels: name and dataclass.
        takes: patterns (``fnmatch``) of the keys and groups that have an effect in it; others are refused.
        without: patterns of keys that are refused all the same.
    """

    name: str
    own: Mapping[str, type] = field(default_factory=dict)
    takes: tuple[str, ...] = ("*",)
    without: tuple[str, ...] = ()

    @property
    def sections(self) -> dict[str, type]:
        return {"model": ModelConfig, "data": DataConfig, **self.own, "kernels": KernelsConfig}

    def takes_key(self, key: str) -> bool:
        return _matches(key, self.takes) and not _matches(key, self.without)


def split_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divides a command line into other arguments and words of the configuration, by what stands before the first ``=``."""
    key = re.compile(rf"[+~]*({'|'.join((*GROUPS, *OWNERS))})(\.\w+)*=")
    words = [word for word in arguments if key.match(word)]
    return [word for word in arguments if not key.match(word)], words


def compose(program: Program, words: Sequence[str], checkpoint: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The sections of ``program`` by name, as checked dataclasses.

    Args:
        words: ``key=value`` and ``group=choice``, as on the command line.
        checkpoint: a checkpoint's config.json: its "model" and "data" take the place of the defaults.

    Raises:
        ConfigError: one line that names the key and the remedy.
    """
    with one_line_errors(program):
        words = prepare(program, words)
        from hydra import compose as hydra_compose
        from hydra import initialize_config_module
        from hydra.core.config_store import ConfigStore

        ConfigStore.instance().store(name="checkpoint_values", node=_known_values(checkpoint or {}))
        with initialize_config_module("amt.configs", version_base=None):
            return finish(program, hydra_compose("train" if checkpoint is None else "checkpoint", overrides=words))


def prepare(program: Program, words: Sequence[str], multirun: bool = False) -> list[str]:
    """Refuses words that are wrong or have no effect in the program, quotes text for Hydra's grammar, tells Hydra the keys."""
    given = without_options(words)
    strangers = {word: line for word in given if (line := _without_effect(program, word))}
    known = [word for word in given if word not in strangers]
    problems = [*strangers.values(), *wrong_words(known, dict(_keys(program)), GROUPS, multirun)]
    if problems:
        raise ConfigError("; and ".join(problems))
    for word in given:
        key, _, value = word.partition("=")
        if key in PATHS and not multirun and is_plain(value):
            _check_path(key, value)  # here, too: Hydra takes longer to load than a wrong path should take

    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=_schema(program))
    ConfigStore.instance().store(name="start_values", node=_start_values(words, multirun))
    texts = _texts(program)
    return [_quoted(word, multirun) if key_of(word) in texts else word for word in words]


def finish(program: Program, composed) -> dict[str, Any]:
    """The dataclasses of what Hydra composed; their own checks run here. Raises ConfigError."""
    from omegaconf import OmegaConf

    strangers = sorted(set(composed) - set(program.sections))
    if strangers:
        raise ConfigError(f"{strangers[0]}: no such section; amt.{program.name} has {', '.join(program.sections)}")
    for key in _texts(program):
        _check_path(key, OmegaConf.select(composed, key))
    model = _checked(composed.model)
    given = None if OmegaConf.is_missing(composed.data.crop, "size") else composed.data.crop.size
    check_crop_size(model, model.crop_size if given is None else given)
    composed.data.crop.size = model.crop_size
    others = {name: _checked(composed[name]) for name in program.sections if name != "model"}
    return {"model": model, **others}


def _checked(node):
    """The dataclass of a node; its own checks run here."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_object(node)
    except OmegaConfBaseException:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_crop_size(model: ModelConfig, size: int) -> None:
    """Raises ConfigError unless crops of ``size`` px are what the model reads."""
    if size != model.crop_size:
        raise ConfigError(
            f"data.crop.size={size} contradicts model.crop_size={model.crop_size}: leave data.crop.size out, it follows the model"
        )


@contextmanager
def one_line_errors(program: Program) -> Iterator[None]:
    """A block in which errors of Hydra, OmegaConf and the dataclasses' checks become a ConfigError of one line."""
    try:
        yield
    except ConfigError:
        raise
    except UserError as error:  # a dataclass's own check
        raise ConfigError(str(error)) from error
    except Exception as error:
        line = _one_line(error, program)
        if line is None:
            raise
        raise ConfigError(line) from error


def choose_device(name: str, key: str) -> torch.device:
    """The device of that name; "auto" takes CUDA where there is one. Raises ConfigError, naming ``key``."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{key} must be auto, cpu, cuda or cuda:N; got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{key} must be auto, cpu, cuda or cuda:N; got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{key}={name}: PyTorch sees no CUDA device here; take cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"{key}={name}: there are {torch.cuda.device_count()} CUDA devices here, counted from 0")
    return device


def set_threads(count: int) -> None:
    """Gives PyTorch ``count`` CPU threads; 0 leaves its choice."""
    import torch

    if count:
        torch.set_num_threads(count)


def help_text(program: Program) -> str:
    """The groups and keys that ``program`` takes, with their defaults."""
    lines = ["groups (group=choice):"]
    for group in GROUPS:
        if program.takes_key(group):
            choices = sorted(
                entry.name.removesuffix(".yaml") for entry in files("amt.configs").joinpath(group).iterdir()
            )
            lines.append(f"  {group:12} {', '.join(choices)}")
    lines = lines if len(lines) > 1 else []
    lines.append("keys (key=value):")
    for name, section in program.sections.items():
        lines += _described(program, section, name)
    return "\n".join(lines)


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _described(program: Program, section: type, prefix: str) -> list[str]:
    comments = dict(re.findall(r"^    (\w+): [^#\n]*?#\s*(.+)$", inspect.getsource(section), re.MULTILINE))
    lines = []
    for entry in fields(section):
        key = f"{prefix}.{entry.name}"
        kind = get_type_hints(section)[entry.name]
        if is_dataclass(kind):
            lines += _described(program, kind, key)
        elif program.takes_key(key):
            value = entry.default_factory() if entry.default is MISSING else entry.default
            default = "null" if value is None or key == FOLLOWS_MODEL else str(value).lower()
            comment = comments.get(entry.name, "").replace("None", "null").replace("``", "")
            lines.append(f"  {f'{key}={default}':40} {comment}".rstrip())
    return lines


def _keys(program: Program) -> list[tuple[str, Any]]:
    """Every key with its type."""

    def walk(section: type, prefix: str):
        for name, kind in get_type_hints(section).items():
            yield from walk(kind, f"{prefix}.{name}") if is_dataclass(kind) else [(f"{prefix}.{name}", kind)]

    return [pair for name, section in program.sections.items() for pair in walk(section, name)]


def _texts(program: Program) -> list[str]:
    """The keys whose values are text."""
    return [key for key, kind in _keys(program) if kind in (str, str | None)]


def _schema(program: Program):
    """OmegaConf's node of all sections. A frozen dataclass makes it read-only, which ends here: it is being composed."""
    from omegaconf import OmegaConf

    node = OmegaConf.create({name: OmegaConf.structured(section) for name, section in program.sections.items()})
    _unlock(node)
    OmegaConf.update(node, FOLLOWS_MODEL, "???")
    return node


def _unlock(node) -> None:
    from omegaconf import OmegaConf

    OmegaConf.set_readonly(node, False)
    if OmegaConf.get_type(node) is dict:
        OmegaConf.set_struct(node, False)  # its keys are free: Hydra would refuse new ones
    for child in node.values():
        if OmegaConf.is_dict(child):
            _unlock(child)


def _known_values(checkpoint: Mapping[str, Any]) -> dict[str, dict]:
    """What a checkpoint says of the model and of its training data; keys that this version does not know are left out."""

    def known(section: type, values: Mapping[str, Any]) -> dict[str, Any]:
        hints = get_type_hints(section)
        return {
            name: known(hints[name], value) if is_dataclass(hints[name]) else value
            for name, value in values.items()
            if name in hints
        }

    sections = {"model": ModelConfig, "data": DataConfig}
    return {name: known(section, checkpoint.get(name) or {}) for name, section in sections.items()}


def _start_values(words: Sequence[str], multirun: bool) -> dict[str, dict]:
    """The model's settings of the checkpoint that ``train.finetune=`` names, unless ``model=…`` chooses a size."""
    named = [value for key, _, value in (word.partition("=") for word in words) if key == START_FROM]
    if not named or not named[-1] or not is_plain(named[-1]) or (multirun and "," in named[-1]):
        return {}
    from amt.model.checkpoint import CheckpointError, read_record
    from amt.model.hub import local_folder

    try:
        record = read_record(local_folder(named[-1]))
        model = ModelConfig.from_dict(record["model"]).as_dict()
    except (CheckpointError, ConfigError) as error:
        raise ConfigError(f"{START_FROM}={named[-1]}: {error}") from error
    if any(word.startswith("model=") for word in words):
        return {}
    model["backbone"] |= {"weights": "none", "require_pretrained": False}  # its own come from the checkpoint
    return {"model": model}


def _without_effect(program: Program, word: str) -> str | None:
    """What is wrong with a word of another program, or with one that this program does not follow."""
    key = key_of(word)
    section = key.partition(".")[0]
    if section in OWNERS and section not in program.sections:
        known = ", ".join(program.sections)
        return f"{word}: {section} is a section of {OWNERS[section]}; amt.{program.name} has {known}"
    if "=" in word and section in (*program.sections, *GROUPS) and not program.takes_key(key):
        return f"{word}: {key} has no effect in amt.{program.name}; see python -m amt.{program.name} --help"
    return None


def _quoted(word: str, multirun: bool) -> str:
    """The word with its value in quotes, so that no letter of a path means something in Hydra's grammar."""
    key, sign, value = word.partition("=")
    if not sign or not (is_plain(value) or "${" in value):
        return word
    if multirun and is_sweep(value):
        return word
    values = value.split(",") if multirun else [value]
    # a backslash only means something before a quote, and the end is one
    escaped = [re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), v) for v in values]
    return f"{key}=" + ",".join(f"'{v}'" for v in escaped)


def _check_path(key: str, value: str | None) -> None:
    """Raises ConfigError for text that names nothing, or a path that is not there."""
    if value == "":
        raise ConfigError(f"{key} is empty (is its variable set?): {PATHS.get(key, 'give a value, or leave it out')}")
    if key not in PATHS or value is None or (key, value) == ("model.hand", SHIPPED_HAND):
        return
    path = Path(value).expanduser()
    if not (path.is_file() if key == "model.hand" else path.is_dir()):
        kind = "file" if key == "model.hand" else "folder"
        raise ConfigError(f"{key}={value}: no such {kind}; {PATHS[key]}")


def _one_line(error: BaseException, program: Program) -> str | None:
    """What an error of Hydra, OmegaConf or a check says of the words; ``None`` for any other error."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    for cause in reversed(chain):
        if isinstance(cause, OverrideParseException):
            return (
                f"cannot read {cause.override!r}: expected key=value; a value with a special character stands in two pairs of "
                f"quotes, \"{key_of(cause.override) or 'key'}='value'\""
            )
        if isinstance(cause, MissingConfigException):
            choices = f"; there are {', '.join(cause.options)}" if cause.options else ""
            return f"no configuration {cause.missing_cfg_file!r}{choices}"
        if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
            return _unknown_key(cause, program)
        if isinstance(cause, OmegaConfBaseException):
            return (
                f"{cause.full_key}: {str(cause).partition(chr(10))[0]}"
                if cause.full_key
                else str(cause).partition("\n")[0]
            )
    return " ".join(str(error).split())


def _unknown_key(error, program: Program) -> str:
    parent = error.full_key.rpartition(".")[0]
    inside = f"{parent}."  # with the dot: train.loss_schedule is not in train.loss
    siblings = {key.removeprefix(inside).partition(".")[0]: None for key, _ in _keys(program) if key.startswith(inside)}
    return f"{error.full_key}: no such key; there are {', '.join(siblings) if parent else ', '.join(program.sections)}"
