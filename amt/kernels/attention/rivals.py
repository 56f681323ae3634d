"""Which other attention libraries are installed here. None is needed; benchmarks compare with what there is."""

from __future__ import annotations

from importlib import metadata, util
from typing import NamedTuple


class Library(NamedTuple):
    name: str
    version: str | None  # None: not installed
    gives: str


# distribution, module, what it would give. flash-attn-4 alone makes flash_attn a namespace package, without version 2's modules.
_KNOWN = (
    ("flash-attn", "flash_attn.flash_attn_interface", "FlashAttention 2"),
    ("flash-attn-3", "flash_attn_interface", "FlashAttention 3, FP8 forward on Hopper"),
    ("flash-attn-4", "flash_attn.cute", "FlashAttention 4, bf16 on Hopper"),
    ("xformers", "xformers", "memory-efficient attention"),
    ("transformer-engine", "transformer_engine", "cuDNN attention, FP8 on Hopper"),
)


def installed() -> list[Library]:
    """Each library with its version, found without importing it (some do not import without a GPU)."""
    return [Library(name, _version(name, module), gives) for name, module, gives in _KNOWN]


def _version(distribution: str, module: str) -> str | None:
    try:
        if util.find_spec(module) is None:
            return None
    except (ImportError, ValueError):  # the parent of a dotted name is missing or broken
        return None
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of unknown version"
