"""``python -m tools.notebook``: runs notebooks/train_amt.ipynb from top to bottom and writes docs/train_amt.html.

The page fetches nothing. Its pictures are JPEGs, and the notebook itself stays without outputs. Sizes are those of the
notebook's first cell. Needs the extras: pip install -e ".[notebook,physics]".
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK, PAGE = ROOT / "notebooks" / "train_amt.ipynb", ROOT / "docs" / "train_amt.html"
WIDEST = 1200  # px of a picture
QUALITY = 82  # of JPEG, 0-100
MOST = 1_500_000  # bytes of the page

STYLE = """
body { margin: 0; font: 15px/1.55 system-ui, sans-serif; color: #1d2127; background: #f4f5f7; }
main { max-width: 1000px; margin: 0 auto; padding: 16px; background: #fff; overflow-wrap: anywhere; }
h1 { font-size: 26px; } h2 { font-size: 20px; margin: 28px 0 6px; } .anchor-link { display: none; }
pre { font: 12.5px/1.45 ui-monospace, monospace; overflow-x: auto; margin: 0; padding: 8px 10px; overflow-wrap: normal; }
.highlight { background: #f6f8fa; border: 1px solid #dfe2e7; border-radius: 6px; margin: 8px 0; }
.output_subarea pre { white-space: pre-wrap; max-height: 420px; overflow-y: auto; border-left: 3px solid #c5cad2; margin: 4px 0; }
.prompt { display: none; } img { max-width: 100%; height: auto; display: block; margin: 6px 0; }
.note { color: #596069; font-size: 13px; }
@media (max-width: 500px) { main { padding: 10px; } pre { font-size: 11px; } }
"""


def execute(path: Path, folder: Path) -> tuple[Any, float]:
    """The notebook with its outputs, and the seconds it took. ``folder`` takes what it makes."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"AMT_NOTEBOOK_FOLDER": str(folder), "PYTHONPATH": os.pathsep.join(paths)}
    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    start = time.perf_counter()
    client.execute(env=environment)
    return notebook, time.perf_counter() - start


def shorten(notebook: Any, folder: Path) -> None:
    """Makes JPEGs of the pictures, joins what was printed piece by piece, and leaves the folder's place out."""
    for cell in notebook.cells:
        joined: list[Any] = []
        for output in cell.get("outputs", ()):
            if "data" in output:
                output.data = _as_jpeg(output.data)
            if "text" in output:
                output.text = output.text.replace(f"{folder}{os.sep}", "").replace(str(folder), folder.name)
                output.name = "stdout"  # a progress bar is no error
                if joined and joined[-1].output_type == "stream":
                    joined[-1].text += output.text
                    continue
            joined.append(output)
        for output in joined:
            if "text" in output:
                output.text = "\n".join(line.rpartition("\r")[2] for line in output.text.splitlines()) + "\n"
        if "outputs" in cell:
            cell.outputs = joined


def _as_jpeg(data: Mapping[str, Any]) -> dict[str, Any]:
    from PIL import Image

    kept = {kind: value for kind, value in data.items() if kind != "image/png"}
    if "image/png" in data:
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        picture.thumbnail((WIDEST, 10 * WIDEST))
        written = io.BytesIO()
        picture.save(written, "JPEG", quality=QUALITY, optimize=True)
        kept["image/jpeg"] = base64.b64encode(written.getvalue()).decode()
    if len(kept) > 1:
        kept.pop("text/plain", None)  # what stands for a picture where none can be shown
    return kept


def page(notebook: Any, about: str) -> str:
    """The notebook as a page of its own."""
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    body, _ = HTMLExporter(
        template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True
    ).from_notebook_node(notebook)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>AMT: from rendering to physics</title><style>{STYLE}{HtmlFormatter().get_style_defs('.highlight')}</style>"
        f'</head>\n<body><main>\n<p class="note">{escape(about)}</p>\n{body}\n</main></body></html>\n'
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.notebook", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--out", type=Path, default=PAGE, metavar="FILE", help="the page (default: docs/train_amt.html)"
    )
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="keeps what the notebook makes")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary) / "train_amt").resolve()
        notebook, seconds = execute(NOTEBOOK, folder)
    shorten(notebook, folder)
    chosen = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("AMT_NOTEBOOK_")]
    about = f"{NOTEBOOK.relative_to(ROOT)} as it ran, from top to bottom, on the CPU of one machine"
    text = page(notebook, f"{about}{', with ' if chosen else ''}{' '.join(chosen)}.")
    if len(text.encode()) > MOST:
        print(
            f"tools.notebook: the page has {len(text.encode()):,} bytes, at most {MOST:,} are allowed", file=sys.stderr
        )
        return 1
    options.out.write_text(text, encoding="utf-8")
    print(f"{options.out}: {len(text.encode()):,} bytes; the notebook took {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
