"""Where the results of a run go. A format is a writer: opened by ``with``, fed picture by picture, closed at the end.

``predictions.jsonl`` is always written. To add a format: write its class in a file here, and name it in :data:`FORMATS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from amt.infer.checks import InputError

if TYPE_CHECKING:  # what these import loads PyTorch, and wrong words are told before that
    from amt.infer.writers.entry import Entry, Setup, Writer


class Format(NamedTuple):
    """Where a format's writer is, and what it needs."""

    home: str  # module:class
    package: str | None = None  # that must be installed
    extra: str | None = None  # of amt, which brings it


FORMATS = {
    "npz": Format("amt.infer.writers.npz:Npz"),
    "csv": Format("amt.infer.writers.table:Csv"),
    "mcap": Format("amt.infer.writers.mcap:Mcap", "mcap", "mcap"),
    "lerobot": Format("amt.infer.writers.lerobot:LeRobot", "pyarrow", "lerobot"),
    "rerun": Format("amt.infer.writers.recorded:Recorded", "rerun", "rerun"),
    "bop": Format("amt.infer.writers.bop:Bop"),
}


def read_formats(given: str | None) -> tuple[str, ...]:
    """The formats of "--export npz,mcap". Raises InputError for an unknown one and where its package is missing."""
    names = tuple(dict.fromkeys(given.split(","))) if given is not None else ()
    for name in names:
        if name not in FORMATS:
            raise InputError(f"--export: expected some of {', '.join(FORMATS)}, got {name!r}")
        needed = FORMATS[name]
        if needed.package is not None and find_spec(needed.package) is None:
            raise InputError(
                f"--export {name}: the package {needed.package} is not installed; pip install amt[{needed.extra}] brings it"
            )
    return names


class Writers(ExitStack):
    """All writers of a run; a context manager. What was added stays on an error.

    Args:
        names: of :data:`FORMATS`.
    """

    def __init__(self, names: Sequence[str], setup: Setup):
        super().__init__()
        self.names, self.setup, self.files = names, setup, []

    def __enter__(self) -> Writers:
        super().__enter__()
        try:
            for name in self.names if self.setup.out is None else ("jsonl", *self.names):
                self.files.append(self.enter_context(self._writer(name)))
        except BaseException:
            self.close()
            raise
        return self

    def _writer(self, name: str) -> Writer:
        module, _, kind = _JSON_LINES.partition(":") if name == "jsonl" else FORMATS[name].home.partition(":")
        return getattr(import_module(module), kind)(self.setup)

    def add(self, entry: Entry) -> None:
        """Writes a picture's results to every file."""
        for file in self.files:
            file.add(entry)


_JSON_LINES = "amt.infer.writers.table:JsonLines"
