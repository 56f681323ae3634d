"""``python -m amt.export CHECKPOINT --to FORMAT --out DIR``: the network for other runtimes, with all that describes it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from amt.config import compose, help_text, split_words
from amt.errors import UsageError
from amt.export.config import PROGRAM
from amt.export.formats import FLOAT32, FORMATS, MOST_IMAGES, OPSET, PRECISIONS, ExportError
from amt.files import check_writable
from amt.model.checkpoint import read_record
from amt.model.shipped import checkpoint_folder
from amt.startup import Parser, run_program

DYNAMIC = "dynamic"


class _Parser(Parser):
    def format_help(self) -> str:
        return f"{super().format_help()}\n{help_text(PROGRAM)}\n"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = _Parser(
        prog="python -m amt.export",
        usage="python -m amt.export CHECKPOINT --to FORMAT --out DIR [options] [key=value ...]",
        description="Writes the network of a checkpoint for another runtime, runs what it wrote, and says how far its answers "
        "are from the checkpoint's. docs/export.md shows how each is used.",
    )
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="folder with model.safetensors and config.json")
    p.add_argument("--to", required=True, choices=tuple(FORMATS), help="the format")
    p.add_argument("--out", required=True, metavar="DIR", help="where it goes; an earlier export there is replaced")
    p.add_argument(
        "--precision",
        default=FLOAT32,
        choices=PRECISIONS,
        help="float32; fp8: matrices of the transformer blocks, for safetensors; int8: products of backbone, neck and fusion, "
        "for openvino; both are fitted to validation crops of data.root (default %(default)s)",
    )
    p.add_argument(
        "--batch",
        default="1",
        metavar=f"N|{DYNAMIC}",
        help=f"images at once; {DYNAMIC} leaves their number open (default %(default)s)",
    )
    p.add_argument("--opset", type=int, default=OPSET, metavar="N", help="of ONNX (default %(default)s)")
    p.add_argument(
        "--crops",
        type=int,
        default=300,
        metavar="N",
        help="validation crops that int8 and fp8 are fitted to; as many others tell how far they are off (default %(default)s)",
    )
    p.add_argument(
        "--device", default="cpu", help="that --to aoti compiles for: cpu or cuda; on cuda the answers are not compared"
    )
    return p


def main(arguments: list[str] | None = None) -> int:
    """Exports; 0, or 2 after one line that says what was wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("amt.export", lambda: _main(arguments), "interrupted; nothing was written")


def _main(arguments: list[str]) -> int:
    others, words = split_words(arguments)
    options = parser().parse_args(others)
    batch = _batch(options)
    FORMATS[options.to].check(options.precision)
    folder, out = checkpoint_folder(options.checkpoint), Path(options.out)
    record = read_record(folder)
    check_writable(out)
    of_a_set = options.precision != FLOAT32 or any(word.startswith("data") for word in words)
    # without a set, the one that the checkpoint was trained on need not be here
    settings = compose(PROGRAM, words, record if of_a_set else {**record, "data": None})
    # Imported late: what is wrong with the words is told before PyTorch loads.
    from amt.config import choose_device
    from amt.export.differences import TOLERANCE_MM
    from amt.export.run import Wish, export

    device = choose_device(options.device, "--device")
    wish = Wish(options.to, options.precision, batch, options.opset, options.crops, str(device))
    data = settings["data"] if of_a_set else None
    content = export(folder, out, wish, settings["model"].hand, data, settings["kernels"].use)
    checked = content["checked"]
    for name in (*content["files"], "export.json"):
        print(out / name)
    if "joints_mm" not in checked:
        print(f"{device}: the answers were not compared")
        return 0
    print(
        f"{checked['crops']} crops, {checked['of']}: joints {checked['joints_mm']:.2g} mm from the checkpoint's on average, "
        f"{checked['joints_max_mm']:.2g} mm at most; object {checked['object_mm']:.2g} mm; {content['runs_with']} runs it"
    )
    if options.precision == FLOAT32 and checked["largest_mm"] > TOLERANCE_MM:
        print(
            f"amt.export: float32 differs by {checked['largest_mm']:.2g} mm in one output; {TOLERANCE_MM:g} mm were expected",
            file=sys.stderr,
        )
    return 0


def _batch(options: argparse.Namespace) -> int | None:
    """``--batch`` as a number; None for any number. Raises UsageError or ExportError for what cannot be."""
    if options.crops < 2:
        raise UsageError(f"--crops must be at least 2; got {options.crops}")
    if options.device != "cpu" and options.to != "aoti":
        raise ExportError(f"--device {options.device}: only --to aoti compiles for a device; leave it out")
    if options.batch == DYNAMIC:
        return None
    if not options.batch.isdecimal() or not 1 <= int(options.batch) <= MOST_IMAGES:
        raise UsageError(
            f"--batch must be a number of images from 1 to {MOST_IMAGES}, or {DYNAMIC}; got {options.batch!r}"
        )
    return int(options.batch)


if __name__ == "__main__":
    sys.exit(main())
