"""The index of a set: one pass over its tree, with every frame's state and every problem with its reason.

    python -m amt.data.index FOLDER                          counts of every split beside the official ones, and problems
    python -m amt.data.index FOLDER --decode                 decodes every picture, too (hours on the whole recorded set)
    python -m amt.data.index FOLDER --out index.npz          keeps the index: Index.load("index.npz").ids("s0", "test", "R")
    python -m amt.data.index FOLDER --problems problems.tsv  writes every problem: file, tabulator, reason

The exit status is 0 without problems, 1 with problems, 2 where there is no set to index.
"""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING

from amt.data.root import check_root
from amt.data.synthetic.config import unfinished
from amt.errors import UsageError
from amt.files import check_writable, write_text
from amt.startup import Parser, run_program

if TYPE_CHECKING:
    from amt.data.index import Index


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; its status is said above."""
    return run_program("amt.data.index", lambda: _main(arguments), "interrupted; nothing was written")


def _main(arguments: list[str] | None) -> int:
    parser = Parser(prog="python -m amt.data.index", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="a set in DexYCB's or HO-3D's layout")
    parser.add_argument("--decode", action="store_true", help="decode every picture and depth image")
    parser.add_argument("--out", metavar="FILE", help="write the index (.npz)")
    parser.add_argument("--problems", metavar="FILE", help="write every problem (text)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    a = parser.parse_args(arguments)
    if a.workers < 1:
        raise UsageError(f"--workers must be at least 1; got {a.workers}")
    check_root(Path(a.folder))
    for file in filter(None, (a.out, a.problems)):
        check_writable(Path(file))
    from amt.data.index.build import build_index  # loads PyTorch: only once the words are known to be good

    index = build_index(a.folder, a.decode, a.workers, not a.quiet)
    if a.out:
        index.save(a.out)
    if a.problems:
        write_text(Path(a.problems), "".join(f"{_shown(path)}\t{reason}\n" for path, reason in index.problems))
    _tell(index)
    return 1 if index.problems else 0


def _tell(index: Index) -> None:
    table = index.counts()
    widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
    for line in table:
        print("  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]))
    from amt.data.protocols import PROTOCOLS

    for protocol in PROTOCOLS.values():
        print(f"[{protocol.name}] {protocol.scores}")
    same = "the official ones" if not index.incomplete else f"this tree's own ({index.incomplete})"
    print(f"{index.root}: {len(index.frames):,} frames; sample ids are {same}")
    for count, reason, first in index.reasons():
        print(f"{count:,} x {reason} (the first: {_shown(first)})")
    incomplete = unfinished(index.root)
    if incomplete:
        print(incomplete)
    print(f"{len(index.problems):,} problems")


def _shown(path: Path) -> str:
    """A path as one line of text, whatever bytes its name has."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


if __name__ == "__main__":
    sys.exit(main())
