"""``python -m amt.infer CHECKPOINT INPUT...``: hand, object and contact of images or a video, as pictures and JSON lines."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np

from amt.infer.inputs import Images, InputError, Video, open_source
from amt.infer.output import OutputError

DEFAULT_OUT = Path("outputs", "infer")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; see python -m amt.infer --help")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = _Parser(prog="python -m amt.infer", description=__doc__)
    p.add_argument("checkpoint", help="folder with model.safetensors and config.json")
    p.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders of images, patterns, or one video")
    p.add_argument("--out", metavar="DIR", help=f"where results go (default {DEFAULT_OUT}/<name of the input>)")
    p.add_argument(
        "--intrinsics", metavar="fx,fy,cx,cy", help="camera of the images, px; images of a data set bring theirs"
    )
    p.add_argument(
        "--fov", type=float, metavar="DEGREES", help="horizontal field of view, where the camera is not known"
    )
    p.add_argument(
        "--box",
        metavar="cx,cy,side",
        help="square around the hand, px; 'auto' looks for it even in images of a data set, whose true box is used otherwise",
    )
    p.add_argument("--side", choices=("right", "left"), help="which hand (default right; a data set says it)")
    p.add_argument(
        "--object",
        metavar="NAME|ID|MESH|BOX",
        help="what it holds: a YCB name or class id, a mesh in metres, or box:0.1x0.05x0.2 (metres)",
    )
    p.add_argument(
        "--models", metavar="DIR", help="object models by YCB name; without it, the built-in shapes stand for them"
    )
    p.add_argument(
        "--mano", metavar="DIR", help="folder of MANO_RIGHT.pkl and MANO_LEFT.pkl, for data sets that need them"
    )
    p.add_argument("--no-draw", action="store_true", help="numbers only")
    p.add_argument("--video", type=float, metavar="FPS", help="take a folder's images as one video of this rate")
    p.add_argument("--batch", type=int, default=16, help="images at once (default %(default)s)")
    p.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    p.add_argument("--overwrite", action="store_true", help="replace files that an earlier run did not write, too")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 0, or 2 after one line on stderr for each input that could not be used."""
    from amt.data.layout import DataError
    from amt.model.checkpoint import CheckpointError
    from amt.model.config import ConfigError

    try:
        args = parser().parse_args(arguments)
        options = _options(args)
        source = open_source(args.inputs)
        return _run(args, options, source)
    except (InputError, OutputError, DataError, CheckpointError, ConfigError) as error:
        _complain(error)
        return 2
    except KeyboardInterrupt:
        print("amt.infer: interrupted; what is finished is kept", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace, options: dict, source: Images | Video) -> int:
    # Imported late: a wrong path should be told at once.
    from amt.infer.output import OutputFolder
    from amt.infer.predictor import load
    from amt.infer.run import Job, run_images, run_video

    _check_device(args.device)
    predictor = load(
        args.checkpoint, args.device, models=args.models, batch_size=args.batch, **_hand(args.checkpoint, args.mano)
    )
    job = Job(
        predictor=predictor,
        out=OutputFolder(args.out or DEFAULT_OUT / _name(args.inputs), args.overwrite),
        intrinsics=options["intrinsics"],
        fov=options["fov"],
        box=options["box"],
        search=args.box == "auto",
        side=args.side,
        object=args.object,
        mano=args.mano,
        draw=not args.no_draw,
    )
    start = time.perf_counter()
    if isinstance(source, Video):
        frames, failed = run_video(job, source, source.frames_per_second, len(source))
    elif args.video:
        frames, failed = run_video(job, (source.read(i) for i in range(len(source))), args.video, len(source))
    else:
        frames, failed = run_images(job, source, _complain)
    seconds = time.perf_counter() - start
    for path in job.out.written if len(job.out.written) <= 8 else [*job.out.written[:3], "...", *job.out.written[-3:]]:
        print(path)
    if frames:
        print(
            f"{frames} image(s) in {seconds:.1f} s, {frames / seconds:.1f} frames/s with reading, drawing and writing"
        )
    if failed:
        _complain(f"{failed} of {frames + failed} image(s) could not be used (named above)")
    return 2 if failed else 0


def _options(args: argparse.Namespace) -> dict:
    """What the strings of the command line say; raises InputError where they say nothing that can be."""
    found = {"intrinsics": None, "fov": None, "box": None}
    if args.intrinsics is not None:
        fx, fy, cx, cy = _numbers("--intrinsics", args.intrinsics, "fx,fy,cx,cy")
        if not (fx > 0 and fy > 0):
            raise InputError(
                f"--intrinsics: focal lengths must be above 0 px, got fx {fx:g}, fy {fy:g}; check the calibration"
            )
        found["intrinsics"] = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    if args.fov is not None:
        if args.intrinsics is not None:
            raise InputError("--fov: stands in for --intrinsics; give one of the two")
        if not 1 <= args.fov <= 170:
            raise InputError(f"--fov: expected 1 to 170 degrees, got {args.fov:g}")
        found["fov"] = args.fov
    if args.box not in (None, "auto"):
        found["box"] = np.array(_numbers("--box", args.box, "cx,cy,side"))
        if found["box"][2] <= 0:
            raise InputError(f"--box: the side must be above 0 px, got {found['box'][2]:g}")
    if args.batch < 1:
        raise InputError(f"--batch: expected at least 1, got {args.batch}")
    if args.video is not None and not 0 < args.video <= 1000:
        raise InputError(f"--video: expected a rate in frames/s, got {args.video:g}")
    if args.mano is not None:
        hand = Path(args.mano, "MANO_RIGHT.pkl")
        if not hand.is_file():
            raise InputError(f"{hand}: no such file; --mano names the folder of MANO_RIGHT.pkl and MANO_LEFT.pkl")
    return found


def _hand(checkpoint: str, mano: str | None) -> dict[str, str]:
    """A model trained with MANO takes its files from this machine's folder; what is wrong with a checkpoint shows later."""
    try:
        trained = json.loads(Path(checkpoint, "config.json").read_text())["model"]["hand"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {} if mano is None or trained == "stand-in" else {"hand": str(Path(mano, "MANO_RIGHT.pkl"))}


def _check_device(device: str | None) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device}: cannot be used ({reason}); leave it out to take what there is") from error


def _numbers(option: str, given: str, form: str) -> list[float]:
    try:
        numbers = [float(word) for word in given.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != form.count(",") + 1 or not all(math.isfinite(n) for n in numbers):
        raise InputError(f"{option}: expected {form} in px, got {given!r}")
    return numbers


def _name(inputs: list[str]) -> str:
    """What the results are called after: the one input's stem, or the folder of the first of many."""
    first = Path(inputs[0])
    if len(inputs) > 1 or any(c in inputs[0] for c in "*?["):
        first = first.parent
    return first.absolute().stem or "images"


def _complain(problem: object) -> None:
    print(f"amt.infer: {problem}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
