"""notebooks/train_amt.ipynb: the notebook itself runs in CI, with few pictures and steps, and is committed without outputs."""

from __future__ import annotations

import ast
import html
import json
import os
import re
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK, PAGE = ROOT / "notebooks" / "train_amt.ipynb", ROOT / "docs" / "train_amt.html"
SIZES = {"SCENES": 8, "FRAMES": 1, "STEPS": 3, "BATCH": 4, "GRASPS": 1, "SECONDS": 0.02}
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]

# What a kernel does with a cell: its last line is shown where it has a value.
RUNNER = """
import ast, json, sys
space, shown = {"__name__": "__main__"}, []
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), space)
        value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), space)
        if hasattr(value, "_repr_html_"):
            shown.append(["html", value._repr_html_()])
        elif value is not None:
            shown.append(["picture", list(value.size)])
open(sys.argv[2], "w").write(json.dumps(shown))
"""


def test_the_notebook_is_committed_without_outputs():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_every_size_is_set_in_the_first_cell_and_by_a_variable():
    first = next("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code")
    names = set(re.findall(r'"AMT_NOTEBOOK_(\w+)"', first))
    assert names == {*SIZES, "MINUTES", "FOLDER"}
    others = "".join("".join(cell["source"]) for cell in CELLS[2:])
    assert "AMT_NOTEBOOK" not in others
    for cell in CELLS:
        if cell["cell_type"] == "code":
            ast.parse("".join(cell["source"]))  # plain Python, without commands of a kernel's own


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    folder, shown = tmp_path / "train_amt", tmp_path / "shown.json"
    sizes = {f"AMT_NOTEBOOK_{name}": str(size) for name, size in SIZES.items()} | {"AMT_NOTEBOOK_FOLDER": str(folder)}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = subprocess.run(
        [sys.executable, "-c", RUNNER, str(NOTEBOOK), str(shown)],
        env=os.environ | sizes | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    kinds = [kind for kind, _ in json.loads(shown.read_text())]
    assert kinds == ["picture", "picture", "html", "picture", "picture", "html"]
    for text in ("32 frames", "wrist-aligned MPJPE, mm", "all values are finite", "prediction: ", "x as long in plain"):
        assert text in found.stdout
    assert (folder / "checkpoint" / "report.html").is_file()


class Fetched(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self, text):
        super().__init__()
        self.found, self.frames = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.found += [values[key] for key in ("src", "data", "poster") if values.get(key)]
        self.found += [values["href"]] if tag == "link" else []
        if tag == "iframe":
            self.frames.append(values["srcdoc"])


def test_the_rendered_page_is_small_and_fetches_nothing():
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.encode()) <= 1_500_000
    page = Fetched(text)
    assert len(page.frames) == 2  # the views in three dimensions
    for one in (page, *map(Fetched, page.frames)):
        assert all(source.startswith("data:") for source in one.found)
    for folder in (Path.home(), tempfile.gettempdir()):  # of the machine that rendered it
        assert f"{folder}/" not in text


def test_the_page_shows_the_notebook_as_it_is():
    """`make notebook` renders it anew after a change."""

    def plain(text):
        return re.sub(r"\s+", "", re.sub(r"<[^>]+>", "", text))

    shown = plain(html.unescape(re.sub(r"<iframe.*?</iframe>", "", PAGE.read_text(encoding="utf-8"), flags=re.S)))
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert plain(re.sub(r"<[^>]+>", "", "".join(cell["source"]))) in shown


def test_a_page_is_made_of_an_executed_notebook(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("nbconvert")
    from tools import notebook as tool

    source = nbformat.v4.new_notebook()
    code = "import os, sys\nfrom PIL import Image\nprint(os.environ['AMT_NOTEBOOK_FOLDER'] + '/x')\n"
    code += "print('a\\rb', file=sys.stderr)\nImage.new('RGB', (3000, 40), (200, 30, 30))"
    source.cells = [nbformat.v4.new_markdown_cell("# A title"), nbformat.v4.new_code_cell(code)]
    nbformat.write(source, tmp_path / "n.ipynb")
    monkeypatch.setattr(tool, "NOTEBOOK", tmp_path / "n.ipynb")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    assert tool.main(["--out", str(tmp_path / "n.html"), "--folder", str(tmp_path / "made")]) == 0
    text = (tmp_path / "n.html").read_text()
    page = Fetched(text)
    assert page.found[-1].startswith("data:image/jpeg;base64,")
    assert str(tmp_path) not in text
    assert "A title" in text
    assert nbformat.read(tmp_path / "n.ipynb", 4).cells[1].outputs == []
