"""``python -m amt.data.synthetic OUT``: renders a set in DexYCB's layout. A second run continues or reuses it."""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from amt.data.synthetic.cameras import CameraConfig, table
from amt.data.synthetic.config import LIFT_FRAMES, SetConfig, check_folder, sequence_folder
from amt.data.synthetic.server import start_server
from amt.errors import UsageError
from amt.startup import Parser, run_program

FULL_LENGTH = 72  # frames: 2.4 s at 30 a second


def main(arguments: list[str] | None = None) -> int:
    """Renders; 0, or 2 after one line that names what was wrong."""
    return run_program(
        "amt.data.synthetic", lambda: _main(arguments), "interrupted; whole sequences stay, the same command continues"
    )


def _main(arguments: list[str] | None) -> int:
    parser = Parser(
        prog="python -m amt.data.synthetic",
        description=__doc__,
        epilog="fields of --camera, with their defaults:\n" + table(),
        formatter_class=RawDescriptionHelpFormatter,
    )
    default = SetConfig()
    parser.add_argument("out", help="folder to render into; empty, new, or one that an earlier run left")
    parser.add_argument(
        "--sequences", type=int, default=default.sequences, help="a subject (default %(default)s; DexYCB: 100)"
    )
    parser.add_argument(
        "--frames",
        type=int,
        help=f"a sequence and camera (default {default.frames}, with --lift {FULL_LENGTH}; DexYCB: about 72)",
    )
    parser.add_argument(
        "--lift",
        action="store_true",
        help="the object rests on the table, the hand comes open, closes, holds and lifts it, as in DexYCB's sequences; needs "
        f"--frames of at least {LIFT_FRAMES}. With --independent each scene is such a sequence by one camera",
    )
    parser.add_argument("--subjects", type=int, default=default.subjects, help="1-10 (default %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="(default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default %(default)s)")
    parser.add_argument(
        "--objects",
        nargs="+",
        default=(),
        metavar="FOLDER",
        help="a folder of closed meshes (OBJ, PLY, STL), or such files, in place of the built-in shapes; NAME.yaml beside "
        "NAME.obj may hold name, unit (m, cm, mm, inch) or scale, mass in kg, and symmetry in degrees by axis, as {z: 180}",
    )
    parser.add_argument(
        "--mano", metavar="FOLDER", help="folder with MANO_RIGHT.pkl and MANO_LEFT.pkl, instead of AMT's own hand"
    )
    parser.add_argument(
        "--independent",
        type=int,
        metavar="N",
        help="N scenes that share nothing (grasp, person, object, camera, light, background), one picture each, in place "
        "of --sequences and --frames",
    )
    parser.add_argument(
        "--backgrounds",
        default=default.backgrounds,
        metavar="FOLDER",
        help="pictures behind and upon the table: a folder, photographs (scikit-image's, the default) or made",
    )
    parser.add_argument(
        "--camera",
        nargs="+",
        default=(),
        metavar="NAME=LOW,HIGH",
        help="what the cameras do to a picture, drawn evenly between two ends or one fixed value; see below",
    )
    parser.add_argument(
        "--distorted",
        action="store_true",
        help="pictures, depth and labels as a lens with distortion sees them; its coefficients go into the calibration",
    )
    parser.add_argument(
        "--match",
        metavar="FOLDER",
        help="measures sharpness, noise and brightness of a folder's pictures and sets softness, noise and exposure so that "
        "rendered pictures have the same; prints both",
    )
    parser.add_argument("--sheet", metavar="FILE", help="also writes a picture of twelve frames of the set, to look at")
    parser.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help="with --independent: N sequences of --frames frames of each of the three people that split s1 validates and "
        "tests on, who have no scenes then",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    a = parser.parse_args(arguments)
    if a.held_out is not None and a.independent is None:
        raise UsageError("--held-out goes with --independent")
    for name in ("independent", "held_out"):
        if getattr(a, name) is not None and getattr(a, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(a, name)}")
    if a.independent is not None and a.sequences != default.sequences:
        raise UsageError("--independent takes one picture of each scene: leave --sequences out")
    if a.independent is not None and a.held_out is None and a.frames is not None and not a.lift:
        raise UsageError(
            "--independent takes one picture of each scene: leave --frames out, or add --held-out or --lift"
        )
    if a.workers < 1:
        raise UsageError(f"--workers must be at least 1; got {a.workers}")
    config = SetConfig(
        a.sequences,
        a.frames if a.frames is not None else FULL_LENGTH if a.lift else default.frames,
        a.subjects,
        a.seed,
        tuple(a.objects),
        independent=a.independent or 0,
        held_out=a.held_out or 0,
        lift=a.lift,
        mano=a.mano,
        backgrounds=a.backgrounds,
        camera=CameraConfig(distorted=a.distorted).changed(a.camera),
    )
    check_folder(Path(a.out), config)
    if a.sheet is not None:
        from amt.data.synthetic.sheet import check_sheet

        check_sheet(Path(a.sheet))
    if a.workers > 1 and any(not sequence_folder(Path(a.out), spec).is_dir() for spec in config.specs()):
        start_server()
    from amt.data.synthetic.write import (
        count_types,
        serials_of,
        write_set,
    )  # loads PyTorch: only once the words are known good

    if a.match is not None:
        from amt.data.synthetic.match import match

        config, told = match(config, a.match)
        print(told)
    types = count_types(write_set(a.out, config, a.workers, progress=not a.quiet), config)
    if a.sheet is not None:
        from amt.data.synthetic.sheet import write_sheet

        write_sheet(Path(a.out), Path(a.sheet))
    cameras = len({serial for spec in config.specs() for serial in serials_of(spec)})
    counts = f"{config.num_grasps} grasps, {config.num_people} people, {cameras} cameras"
    print(f"{a.out}: {config.num_pictures} frames, {counts}")
    print("grasps by type: " + ", ".join(f"{name} {count}" for name, count in types.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
