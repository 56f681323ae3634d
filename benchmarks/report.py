"""`python -m benchmarks.report` writes the tables of the README and the docs, and the plot, from benchmarks/results/*.json.

A page says where a table goes:

    <!-- benchmarks:begin goals -->
    <!-- benchmarks:end goals -->

`--check` writes nothing. It fails where a table or the plot is not what the files give, and where a speed stands in the text
outside a table: no figure without a file behind it. Code blocks do not count, nor does a line marked
`<!-- not measured here -->`. docs/log.md is no page: its entries are dated and stay as they were written.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks import plot, tables
from benchmarks.results import FOLDER, ROOT, load

BLOCK = re.compile(r"(<!-- benchmarks:begin (\S+) -->\n)(.*?)(<!-- benchmarks:end \2 -->)", re.DOTALL)
MARKER = re.compile(r"<!-- benchmarks:(begin|end) (\S+) -->")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
UNITS = "ms|µs|us|[GT]B/s|[MGT]FLOP/s|images/s|samples/s|frames/s"
SPEED = re.compile(rf"\d[\d.,]*\s?(?:{UNITS})(?![A-Za-z])|\d[\d.,]*\s?[×x] (?:faster|as fast|eager)")
EXEMPT = "<!-- not measured here -->"
PAGES = tuple(ROOT / name for name in ("README.md", "docs/benchmarks.md", "docs/kernels.md", "docs/model.md"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail where something is stale")
    parser.add_argument("--pages", type=Path, nargs="+", default=PAGES, metavar="PAGE", help="Markdown files")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the results files")
    options = parser.parse_args(arguments)
    try:
        files = read(options.results)
        texts = {page: page.read_text() for page in options.pages}
        new = {page: filled(text, files, page.name) for page, text in texts.items()}
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    picture = options.results / plot.PICTURE
    shown = any(plot.PICTURE in text for text in texts.values())
    if options.check:
        problems = [problem for page, text in texts.items() for problem in check(text, new[page], page.name)]
        if shown and not plot.is_current(picture, files):
            problems.append(f"{picture.name} is not what the results files give")
        for problem in problems:
            print(f"report: {problem}", file=sys.stderr)
        if problems:
            print("report: run `python -m benchmarks.report` and commit what it writes", file=sys.stderr)
        return 1 if problems else 0
    for page, text in new.items():
        page.write_text(text)
    if shown and not plot.is_current(picture, files):
        plot.draw(picture, files)
    tables_written = sum(len(BLOCK.findall(text)) for text in new.values())
    print(
        f"{', '.join(page.name for page in new)}: {tables_written} tables from {len(files)} results files, {picture.name}"
    )
    return 0


def read(folder: Path) -> list[dict]:
    """Every results file of the folder, GPUs first. Raises ValueError naming a file that cannot be read."""
    files = [load(path) for path in sorted(folder.glob("*.json"))]
    return sorted(files, key=lambda file: file["environment"]["device"] != "cuda")


def filled(text: str, files: list[dict], page: str) -> str:
    """``text`` with every block written anew. Raises ValueError for an unknown name or a marker without its other half."""
    open_markers = [name for kind, name in MARKER.findall(text) if kind == "begin"]
    closing = [name for kind, name in MARKER.findall(text) if kind == "end"]
    if open_markers != closing or len(open_markers) != len(BLOCK.findall(text)):
        raise ValueError(f"{page}: the benchmark markers do not pair up: each begin needs its end on a later line")
    for name in open_markers:
        if name not in tables.NAMES:
            raise ValueError(f"{page}: there is no table {name!r}; there are {', '.join(tables.NAMES)}")
    return BLOCK.sub(lambda found: f"{found[1]}{tables.render(found[2], files)}\n{found[4]}", text)


def check(text: str, new: str, name: str) -> list[str]:
    """What is wrong with a page as it stands."""
    problems = []
    for old, fresh in zip(BLOCK.finditer(text), BLOCK.finditer(new)):
        if old[3] != fresh[3]:
            problems.append(f"{name}: the table {old[2]!r} is not what the results files give")

    def blanked(found: re.Match) -> str:
        return "\n" * found[0].count("\n")

    rest = FENCE.sub(blanked, BLOCK.sub(blanked, text))
    for number, line in enumerate(rest.splitlines(), start=1):
        figure = SPEED.search(line)
        if figure and EXEMPT not in line:
            problems.append(f"{name}:{number}: {figure[0]!r} stands outside a table, with no results file behind it")
    return problems


if __name__ == "__main__":
    sys.exit(main())
