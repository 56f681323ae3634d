"""The command line of amt.infer, checked before PyTorch loads: options, and ``key=value`` words as in every program."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amt.config import KernelsConfig, compose, help_text
from amt.draw.recording import check_recording
from amt.hand.skeleton import SHIPPED_HAND
from amt.infer.cameras import Camera, read_calibration
from amt.infer.checks import InputError, check_fov
from amt.infer.config import LOCATORS, PROGRAM, InferConfig
from amt.infer.inputs import CAMERA
from amt.infer.lens import Lens, as_lens
from amt.infer.writers import FORMATS, read_formats
from amt.model.checkpoint import read_record
from amt.model.shipped import checkpoint_folder
from amt.startup import Parser

if TYPE_CHECKING:
    from amt.robot import RobotHand

DEFAULT_OUT = Path("outputs", "infer")
ENGINES_OF_RUN = ("process", "ray")
DESCRIPTION = "Hand, object and contact of images or a video, as pictures and JSON lines."


class _Parser(Parser):
    def format_help(self) -> str:
        return f"{super().format_help()}\n{help_text(PROGRAM)}\n"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = _Parser(
        prog="python -m amt.infer",
        usage="python -m amt.infer CHECKPOINT INPUT [INPUT ...] [options] [key=value ...]",
        description=DESCRIPTION,
    )
    p.add_argument(
        "words",
        nargs="*",
        metavar="CHECKPOINT INPUT",
        help="folder with model.safetensors and config.json; then images, folders of images, patterns, sequences of DexYCB, "
        "one video, or camera:0",
    )
    p.add_argument(
        "--out",
        metavar="DIR",
        help=f"where results go (default {DEFAULT_OUT}/<name of the input>), a picture "
        "named as its image is; images of one name by their paths: a/x.jpg and x.png give a_x_jpg.png and x_png.png; "
        "files of other programs are never replaced",
    )
    p.add_argument(
        "--intrinsics",
        metavar="fx,fy,cx,cy|FILE",
        help="camera of the images, px: four numbers, nine (row by row), or a calibration file of OpenCV, ROS, DexYCB or in "
        "JSON, with its distortion; images of a data set bring theirs; where nobody knows it, EXIF's focal length is taken, "
        "or a field of view of 75 degrees over the diagonal",
    )
    p.add_argument(
        "--distortion",
        metavar="k1,k2,p1,p2[,k3...]",
        help="of the lens, in OpenCV's order, or fisheye:k1,k2,k3,k4; a calibration file brings its own",
    )
    p.add_argument(
        "--fov", type=float, metavar="DEGREES", help="horizontal field of view, where the camera is not known"
    )
    p.add_argument(
        "--box",
        metavar="cx,cy,side",
        help="square around the hand, px; 'auto' looks for it even in images of a data set, whose true box is used otherwise",
    )
    p.add_argument(
        "--locator",
        choices=LOCATORS,
        help="what finds hands where no box is given: model (the checkpoint's own or the one that ships; the default), "
        "mediapipe (see infer.mediapipe), or window (one hand, some eighty crops); infer.locator=NAME means the same",
    )
    p.add_argument("--locators", metavar="NAME,NAME", help="with --bench: compare these, each with every checkpoint")
    p.add_argument(
        "--side",
        choices=("right", "left"),
        help="which hand (default: the model tells; right where a box is given; a data set says it)",
    )
    p.add_argument(
        "--object",
        metavar="NAME|ID|MESH|BOX",
        help="what it holds: a YCB name or class id, a mesh in metres, or box:0.1x0.05x0.2 (metres)",
    )
    p.add_argument(
        "--models", metavar="DIR", help="object models by YCB name; without it, the built-in shapes stand for them"
    )
    p.add_argument(
        "--mano",
        metavar="DIR",
        help="folder of MANO_RIGHT.pkl and MANO_LEFT.pkl, for data sets that need them; data.mano=DIR means the same",
    )
    p.add_argument("--no-draw", action="store_true", help="numbers only")
    p.add_argument(
        "--every", type=int, default=1, metavar="N", help="take every Nth image or frame (default %(default)s)"
    )
    p.add_argument(
        "--export",
        metavar="FORMAT[,FORMAT...]",
        help=f"write these beside predictions.jsonl: {', '.join(FORMATS)}; docs/robots.md says what each holds",
    )
    p.add_argument(
        "--retarget",
        metavar="shadow|adroit|FILE.xml",
        help="a robot's hand that follows every hand: joint angles in the exports, the hand in the film; pip install amt[robot]",
    )
    p.add_argument(
        "--world",
        metavar="FILE",
        help="with --retarget: 4 x 4 numbers that take the camera's frame (m) to the robot's fixed one; .txt, .npy or .json",
    )
    p.add_argument("--csv", action="store_true", help="the same as --export csv")
    p.add_argument(
        "--live",
        action="store_true",
        help="show a camera, or a video in its place, on a page of this machine (its address is printed) until Ctrl-C; pictures "
        "that come too soon are left out, and nothing is written unless --out says where",
    )
    p.add_argument(
        "--serve",
        action="store_true",
        help="show a page on which a browser gives pictures, clips or its webcam, and turns and downloads what is found, until "
        "Ctrl-C; takes no INPUT; pip install amt[serve]",
    )
    p.add_argument(
        "--host", metavar="ADDRESS", help="of --serve's page (default 127.0.0.1, which this machine alone reaches)"
    )
    p.add_argument(
        "--port", type=int, default=8765, help="of the page of --live or --serve (default %(default)s; 0: a free one)"
    )
    p.add_argument(
        "--rerun", metavar="FILE.rrd", help="write a recording for the Rerun viewer, too; pip install amt[rerun]"
    )
    p.add_argument("--video", type=float, metavar="FPS", help="take images as the frames of one video of this rate")
    p.add_argument(
        "--batch", type=int, default=16, help="images at once (default %(default)s); a video goes frame by frame"
    )
    p.add_argument(
        "--benchmark",
        action="store_true",
        help="write nothing; print the time of each stage (p50, p90, p99), frames/s and memory at batch 1 and --batch, beside "
        "the same network in plain PyTorch",
    )
    p.add_argument(
        "--bench",
        metavar="FOLDER",
        help="compare the checkpoints that are named, one or more, on the pictures and videos of a folder, without labels",
    )
    p.add_argument(
        "--engine",
        choices=ENGINES_OF_RUN,
        default=ENGINES_OF_RUN[0],
        help="process: this one; ray: workers of Ray Data, for long collections of pictures in folders and object stores "
        "(s3://, gs://, ...): predictions.jsonl alone, a second run skips what is done; pip install amt[ray]",
    )
    p.add_argument("--workers", type=int, metavar="N", help="of --engine ray (default: one a CPU, or one a GPU)")
    p.add_argument("--device", default="auto", help="auto (the GPU where there is one), cpu, cuda or cuda:N")
    p.add_argument("--overwrite", action="store_true", help="replace files that an earlier run did not write, too")
    return p


@dataclass(frozen=True)
class Command:
    """A checked command line."""

    options: argparse.Namespace
    checkpoint: Path
    inputs: list[str]
    settings: dict[str, Any]  # the sections "infer" and "kernels"
    hand: str | None  # MANO_RIGHT.pkl of this machine, for a model that was trained with MANO
    mano: Path | None  # folder of MANO's files
    camera: Camera | None  # where K was given
    lens: Lens | None  # where the distortion was given
    box: np.ndarray | None
    exports: tuple[str, ...]  # formats of amt.infer.writers
    robot: RobotHand | None  # of --retarget
    world: np.ndarray | None  # [4, 4], of --world

    @property
    def out(self) -> Path:
        """The folder of the results: the given one, or one that is called after the input, or after the folder of many."""
        if self.options.out is not None:
            return Path(self.options.out)
        first = Path(self.inputs[0].replace(":", "_") if CAMERA.fullmatch(self.inputs[0]) else self.inputs[0])
        if len(self.inputs) > 1 or any(c in self.inputs[0] for c in "*?["):
            first = first.parent
        return DEFAULT_OUT / (first.absolute().stem or "images")


def read_command(arguments: list[str]) -> Command:
    """Checks all that can be checked without a picture and without PyTorch.

    Raises:
        InputError, CheckpointError, ConfigError: one line that names what is wrong.
    """
    if "" in arguments:
        before = arguments[arguments.index("") - 1] if arguments.index("") else ""
        name = before if before.startswith("--") else "one of the words"
        raise InputError(f"{name} is empty (is its variable set?); give a value, or leave it out")
    options = parser().parse_intermixed_args(_joined(arguments))
    _check_options(options)
    is_key = re.compile(r"[+~]*\w+(\.\w+)*=")
    keys = [word for word in options.words if is_key.match(word) and not Path(word).exists()]
    paths = [word for word in options.words if word not in keys]
    if options.bench is not None:
        if not paths:
            raise InputError("--bench: expected one or more CHECKPOINTs; see python -m amt.infer --help")
        options.others, options.finders = (
            [str(checkpoint_folder(path)) for path in paths[1:]],
            _finders(options.locators),
        )
        for path in options.others:
            read_record(path)
        paths = [paths[0], options.bench]
    if options.serve and len(paths) != 1:
        got = "no CHECKPOINT" if not paths else f"also {paths[1]}"
        raise InputError(f"--serve: expected a CHECKPOINT and no INPUT, which the page is given; got {got}")
    if len(paths) < 2 and not options.serve:
        raise InputError("expected CHECKPOINT and INPUT; see python -m amt.infer --help")
    checkpoint = checkpoint_folder(paths[0])
    record = read_record(checkpoint)
    settings, hand, mano = _settings(keys, record)
    if mano is not None and options.mano is not None and mano != options.mano:
        raise InputError(f"--mano {options.mano} contradicts data.mano={mano}; give one of the two")
    mano = options.mano or mano
    if mano is not None:
        right = Path(mano, "MANO_RIGHT.pkl")
        if not right.is_file():
            raise InputError(f"{right}: no such file; --mano names the folder of MANO_RIGHT.pkl and MANO_LEFT.pkl")
        if hand is None and record["model"]["hand"] != SHIPPED_HAND:
            hand = str(right)
    robot, world = _robot(options)
    return Command(
        options=options,
        checkpoint=checkpoint,
        inputs=paths[1:],
        settings=settings,
        hand=hand,
        mano=_mano(mano, hand, record),
        camera=_camera(options),
        lens=as_lens(options.distortion),
        box=_box(options),
        exports=_exports(options),
        robot=robot,
        world=world,
    )


def _check_serve(options: argparse.Namespace) -> None:
    # what belongs to a run over inputs
    others = (
        "out",
        "csv",
        "export",
        "retarget",
        "world",
        "rerun",
        "video",
        "live",
        "benchmark",
        "bench",
        "no_draw",
        "workers",
    )
    given = next((name for name in others if getattr(options, name) not in (None, False)), None)
    given = given or ("every" if options.every != 1 else "engine" if options.engine == "ray" else None)
    if given is not None:
        raise InputError(f"--{given.replace('_', '-')}: does not go with --serve; leave one of the two out")
    if any(find_spec(package) is None for package in ("starlette", "uvicorn")):
        raise InputError("--serve: the packages starlette and uvicorn are not installed; pip install amt[serve]")


def _finders(given: str | None) -> list[str]:
    """The locators that a bench compares; none where one is taken as without a bench."""
    names = given.split(",") if given else []
    for name in names:
        if name not in LOCATORS:
            raise InputError(f"--locators: expected some of {', '.join(LOCATORS)}, got {name!r}")
    return names


def _check_ray(options: argparse.Namespace) -> None:
    # what needs one process, or pictures in their order
    others = ("csv", "export", "retarget", "rerun", "video", "live", "benchmark", "bench")
    given = next((name for name in others if getattr(options, name) not in (None, False)), None)
    if given is not None:
        raise InputError(
            f"--{given}: does not go with --engine ray, which writes predictions.jsonl; leave one of them out"
        )
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers: expected at least 1, got {options.workers}")
    if find_spec("ray") is None:
        raise InputError("--engine ray: the package ray is not installed; pip install amt[ray]")


_NUMBERS = ("--intrinsics", "--distortion", "--fov", "--box", "--video", "--batch", "--every")


def _joined(arguments: list[str]) -> list[str]:
    """Puts "--box -10,20,100" together as "--box=-10,20,100": argparse takes a word that begins with - for an option."""
    joined: list[str] = []
    for word in arguments:
        if joined and joined[-1] in _NUMBERS and re.match(r"-[^-]", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _settings(keys: list[str], record: dict[str, Any]) -> tuple[dict[str, Any], str | None, str | None]:
    """The sections "infer" and "kernels", and what the words say of model.hand and data.mano (None: nothing)."""
    if not keys:  # Hydra takes a second to load
        return {"infer": InferConfig(), "kernels": KernelsConfig()}, None, None
    settings = compose(PROGRAM, keys, {"model": record["model"]})
    hand = settings["model"].hand if any(key.startswith("model.hand=") for key in keys) else None
    return settings, hand, settings["data"].mano


def _mano(given: str | None, hand: str | None, record: dict[str, Any]) -> Path | None:
    """The folder of MANO's files: the given one, that of the model's hand, or that of the training."""
    trained_with = hand or record["model"]["hand"]
    data = record.get("data")
    found = given or (data.get("mano") if isinstance(data, dict) else None)
    return Path(found) if found else None if trained_with == SHIPPED_HAND else Path(trained_with).parent


def _check_options(options: argparse.Namespace) -> None:
    if options.batch < 1:
        raise InputError(f"--batch: expected at least 1, got {options.batch}")
    if options.every < 1:
        raise InputError(f"--every: expected at least 1, got {options.every}")
    if options.rerun is not None:
        check_recording(Path(options.rerun), overwrite=options.overwrite)
    if not 0 <= options.port < 65536:
        raise InputError(f"--port: expected 0 to 65535, got {options.port}")
    if options.serve:
        _check_serve(options)
    elif options.host is not None:
        raise InputError("--host: belongs to --serve; leave it out")
    if options.live:
        for other in ("benchmark", "bench", "no_draw"):
            if getattr(options, other):
                raise InputError(f"--live: does not go with --{other.replace('_', '-')}; leave one of the two out")
        for name in ("csv", "export"):
            if getattr(options, name) and options.out is None:
                raise InputError(f"--{name}: with --live nothing is written unless --out names a folder; add it")
    if options.engine == "ray":
        _check_ray(options)
    elif options.workers is not None:
        raise InputError("--workers: belongs to --engine ray; leave it out")
    if options.video is not None and not 0 < options.video <= 1000:
        raise InputError(f"--video: expected a rate above 0 and up to 1000 frames/s, got {options.video:g}")
    if options.models is not None and not Path(options.models).is_dir():
        raise InputError(f"--models {options.models}: no such folder; it holds one folder for each YCB name")
    if options.fov is not None:
        if options.intrinsics is not None:
            raise InputError("--fov: stands in for --intrinsics; give one of the two")
        check_fov(options.fov, "--fov")


def _exports(options: argparse.Namespace) -> tuple[str, ...]:
    """The formats of --export, --csv and --rerun, each once."""
    named = (*read_formats(options.export), *("csv",) * options.csv, *("rerun",) * (options.rerun is not None))
    return tuple(dict.fromkeys(named))


def _robot(options: argparse.Namespace) -> tuple[RobotHand | None, np.ndarray | None]:
    """The hand of --retarget and the transform of --world."""
    if options.retarget is None:
        if options.world is not None:
            raise InputError("--world: goes with --retarget, whose palm it moves; add it, or leave --world out")
        return None, None
    from amt.infer.robots import read_world
    from amt.robot import load_hand

    return load_hand(options.retarget), None if options.world is None else read_world(options.world)


def _camera(options: argparse.Namespace) -> Camera | None:
    given = options.intrinsics
    if given is None:
        return None
    if re.search(r"[^-+\d.,e\s]", re.sub(r"nan|inf", "", given)):  # a letter, which no number has
        return read_calibration(given)
    if given.count(",") == 8:
        k = np.array(_numbers("--intrinsics", given, "nine numbers", 9)).reshape(3, 3)
        return Camera(k)
    fx, fy, cx, cy = _numbers("--intrinsics", given, "fx,fy,cx,cy", 4)
    if not (fx > 0 and fy > 0):
        raise InputError(
            f"--intrinsics: focal lengths must be above 0 px, got fx {fx:g}, fy {fy:g}; check the calibration"
        )
    return Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))


def _box(options: argparse.Namespace) -> np.ndarray | None:
    if options.box in (None, "auto"):
        return None
    box = np.array(_numbers("--box", options.box, "cx,cy,side", 3))
    if box[2] <= 0:
        raise InputError(f"--box: the side must be above 0 px, got {box[2]:g}")
    return box


def _numbers(option: str, given: str, form: str, count: int) -> list[float]:
    try:
        numbers = [float(word) for word in given.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(n) for n in numbers):
        raise InputError(f"{option}: expected {form} in px, got {given!r}")
    return numbers
