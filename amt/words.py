"""What is wrong with ``key=value`` words, told at once and before Hydra loads: keys that do not exist, values of a wrong type.

What only Hydra and OmegaConf can judge, such as interpolations and lists, is left to them.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from amt.errors import UsageError

# Hydra's options
_WITH_VALUE = re.compile(r"(--(config-(name|dir|path)|cfg|info|package|experimental-rerun)|-(cn|cd|cp|c|i|p))$")
_ALONE = re.compile(r"--(hydra-help|version|resolve|run|multirun|shell-completion)|-(r|m|sc)")
_MEANT = {int: "a whole number", float: "a number", bool: "true or false"}
_BRACKETS = {list: ("[", "a list in brackets, [first,second]"), dict: ("{", "a mapping in braces, {key:value}")}
_FORMS = {
    int: r"[+-]?\d+(_\d+)*",
    float: r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d+)?|[+-]?inf|nan",
    bool: r"true|false|yes|no|on|off|y|n|0|1",
}


def key_of(word: str) -> str:
    """The key of a word, without Hydra's marks in front."""
    return word.partition("=")[0].lstrip("+~")


def is_plain(value: str) -> bool:
    """Whether a value is the text itself: not null, in quotes, or made of other keys."""
    return not (value.lower() == "null" or "${" in value or re.fullmatch(r"'.*'|\".*\"", value, re.DOTALL))


def is_sweep(value: str) -> bool:
    """Whether a value is one of Hydra's sweeps over several runs."""
    return bool(re.fullmatch(r"(choice|glob|range|sort|shuffle|tag|interval)\(.*\)", value))


def without_options(arguments: Sequence[str]) -> list[str]:
    """The words of a command line that are not Hydra's options or the values of such."""
    words, skip = [], False
    for word in arguments:
        if not (skip or word.startswith("-")):
            words.append(word)
        skip = bool(_WITH_VALUE.match(word))
    return words


def check_options(arguments: Sequence[str], program: str) -> None:
    """Raises UsageError for a word that looks like an option and is none of Hydra's."""
    for word in arguments:
        if word.startswith("-") and not (_ALONE.fullmatch(word) or _WITH_VALUE.match(word.partition("=")[0])):
            raise UsageError(f"{word}: no such option; see python -m {program} --help")


def wrong_words(
    words: Sequence[str], kinds: Mapping[str, Any], groups: Sequence[str], multirun: bool = False
) -> list[str]:
    """What is wrong with each word, in their order.

    Args:
        words: ``key=value`` and ``group=choice``.
        kinds: the type of every key, "section.name".
        groups: names whose choice is a file of configuration.
    """
    return [line for word in words if (line := _wrong(word, kinds, groups, multirun))]


def _wrong(word: str, kinds: Mapping[str, Any], groups: Sequence[str], multirun: bool) -> str | None:
    key, value = key_of(word), word.partition("=")[2]
    if word.startswith("~"):
        return f"cannot read {word!r}: no key can be left out; give it a value, {key.partition('=')[0]}=VALUE"
    if "=" not in word:
        return f"cannot read {word!r}: expected key=value" + (f", {word}=VALUE" if key in kinds else "")
    if key in kinds:
        return _wrong_value(key, value, kinds[key], multirun)
    if not key:
        return f"cannot read {word!r}: expected key=value"
    if key in groups or key.startswith("hydra.") or not re.fullmatch(r"\w+(\.\w+)*", key):
        return None
    parts = key.split(".")
    for length in range(len(parts)):
        parent = ".".join(parts[:length])
        if kinds.get(parent) is not None:  # a mapping, whose keys are free
            return None
        inside = list(
            dict.fromkeys(k.removeprefix(f"{parent}.").partition(".")[0] for k in kinds if _lies_in(k, parent))
        )
        if parts[length] not in inside:
            full = ".".join(parts[: length + 1])
            return f"{full}: no such {'key' if parent else 'section'}; there are {', '.join(inside)}"
    if is_plain(value) and not value.startswith("{"):
        first = next(k for k in kinds if _lies_in(k, key))
        return f"{key}={value}: {key} is a section; give its keys values, such as {first}=VALUE"
    return None


def _lies_in(key: str, section: str) -> bool:
    return not section or key.startswith(f"{section}.")


def _wrong_value(key: str, value: str, kind: Any, multirun: bool) -> str | None:
    optional = isinstance(kind, types.UnionType)
    accepted = [k for k in get_args(kind) if k is not type(None)] if optional else [kind]
    kind = accepted[0]
    if get_origin(kind) in _BRACKETS and not (multirun and is_sweep(value)):
        opening, meant = _BRACKETS[get_origin(kind)]
        wrong = value.lower() == "null" or (is_plain(value) and not value.strip().startswith(opening))
        return f"{key}: expected {meant}, got {value!r}" if wrong else None
    if len(accepted) > 1 or kind not in _FORMS or (multirun and is_sweep(value)):
        return None
    for one in value.split(",") if multirun else [value]:
        if one.lower() == "null" and not optional:
            return f"{key}: expected {_MEANT[kind]}, got null"
        if is_plain(one) and not re.fullmatch(_FORMS[kind], one.strip(), re.IGNORECASE):
            return f"{key}: expected {_MEANT[kind]}, got {one!r}"
    return None
