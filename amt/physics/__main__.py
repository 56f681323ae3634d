"""``python -m amt.physics ROOT``: judges the labelled grasps of a set.

    python -m amt.physics ROOT                            depths, volume, contact and hold rate of split s1, test; by object
    python -m amt.physics ROOT --split s0 --subset train --limit 200
    python -m amt.physics ROOT --protocol deepsimho       the figures of DeepSimHO and VPHO, pd_released included
    python -m amt.physics ROOT --out labels.json          every grasp's verdict, too

A grasp that several cameras see is judged once. Needs the extra: pip install amt[physics].
"""

from __future__ import annotations

import json
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from amt.data.layout import SUBSETS
from amt.data.root import check_root
from amt.errors import UsageError
from amt.files import check_writable, write_text
from amt.startup import Parser, run_program

PROTOCOLS = ("amt", "deepsimho")


def main(arguments: list[str] | None = None) -> int:
    """Judges; 0, or 2 after one line that names what was wrong."""
    return run_program("amt.physics", lambda: _main(arguments), "interrupted; nothing was written")


def _main(arguments: list[str] | None) -> int:
    parser = Parser(prog="python -m amt.physics", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="ROOT", help="a set in DexYCB's layout, with meshes in its models")
    parser.add_argument(
        "--mano", metavar="FOLDER", help="MANO_RIGHT.pkl and MANO_LEFT.pkl, where the set's hands are MANO's"
    )
    parser.add_argument("--split", default="s1", help="s0 to s3 (default %(default)s)")
    parser.add_argument("--subset", default="test", choices=SUBSETS, help="default %(default)s")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N grasps, spread evenly over the subset")
    parser.add_argument("--protocol", default="amt", choices=PROTOCOLS, help="default %(default)s")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads (default %(default)s)")
    parser.add_argument("--out", metavar="FILE", help="write the figures and every verdict as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    a = parser.parse_args(arguments)
    for name in ("limit", "workers"):
        if getattr(a, name) is not None and getattr(a, name) < 1:
            raise UsageError(f"--{name} must be at least 1; got {getattr(a, name)}")
    if check_root(Path(a.folder)) != "dexycb":
        raise UsageError(f"{a.folder}: is a set in another layout; amt.physics reads sets in DexYCB's")
    if a.out:
        check_writable(Path(a.out))
    return run(a)


def run(a) -> int:
    """Judges with parsed arguments."""
    from tqdm import tqdm

    from amt.data.dexycb import DexYCB
    from amt.data.some_frames import spread_evenly
    from amt.physics.bodies import CLOSED
    from amt.physics.extra import PACKAGES, package
    from amt.physics.frames import Grasps, distinct

    for name in PACKAGES:
        package(name)  # before any work
    reader = DexYCB(a.folder, a.split, a.subset, a.mano)
    grasps, indices = Grasps(reader), list(distinct(reader))
    if a.limit:
        indices = [indices[k] for k in spread_evenly(len(indices), a.limit)]
    pairs = [pair for index in tqdm(indices, desc="labels", disable=a.quiet) if (pair := grasps.true(index))]
    if not pairs:
        raise UsageError(f"{a.folder}: {a.split} {a.subset} holds no frame with a labelled hand and object")
    bodies = {held.name: held for _, held in pairs}
    for held in tqdm(bodies.values(), desc="convex parts", disable=a.quiet):
        held.hulls  # noqa: B018  (computed once, shared by all poses)
    figures = _deepsimho(a, pairs, tqdm) if a.protocol == "deepsimho" else _amt(a, pairs, tqdm)
    for held in bodies.values():
        if held.treatment != CLOSED:
            print(f"{held.name}: its mesh is {held.treatment}")
    if reader.report():
        print(reader.report())
    if a.out:
        write_text(Path(a.out), json.dumps(figures, indent=2) + "\n")
        print(a.out)
    return 0


def _amt(a, pairs, tqdm) -> dict:
    from amt.physics.hold import HoldTest
    from amt.physics.verdict import judge_all, score

    verdicts = judge_all(tqdm(pairs, desc="judging", disable=a.quiet), workers=a.workers)
    names = [held.name for _, held in pairs]
    rows = {name: score([v for v, n in zip(verdicts, names) if n == name]) for name in sorted(set(names))}
    rows["all"] = score(verdicts)
    columns = ("grasps", "true_depth_mm", "hand_depth_mm", "object_depth_mm", "intersection_cm3", "contact_ratio")
    _table(rows, (*columns, "touching_rate", "hold_rate", "hold_rate_by_direction"))
    by_direction = {d: sum(v.held[d] for v in verdicts) / len(verdicts) for d in verdicts[0].held}
    print("held under gravity: " + ", ".join(f"{name} {rate:.0%}" for name, rate in by_direction.items()))
    test = HoldTest()
    print(
        f"hold test: friction {test.friction:g}, {test.force:g} N a finger, {test.seconds:g} s; it holds where the object moves "
        f"by at most {test.most_moved * 1000:g} mm and {test.most_turned:g} degrees"
    )
    return {
        "protocol": "amt",
        "by_object": rows,
        "grasps": [v.record() | {"object": n} for v, n in zip(verdicts, names)],
    }


def _deepsimho(a, pairs, tqdm) -> dict:
    from dataclasses import asdict

    from amt.physics.released import deepsimho, mean_figures

    judged = [deepsimho(*pair) for pair in tqdm(pairs, desc="judging", disable=a.quiet)]
    names = [held.name for _, held in pairs]
    rows = {name: mean_figures([j for j, n in zip(judged, names) if n == name]) for name in sorted(set(names))}
    rows["all"] = mean_figures(judged)
    _table(rows, tuple(rows["all"]))
    print(
        "pd_released is 1,000 x the squared distance (m²) of the hand's farthest vertex OUTSIDE the object: not a depth"
    )
    return {
        "protocol": "deepsimho",
        "by_object": rows,
        "grasps": [asdict(j) | {"object": n} for j, n in zip(judged, names)],
    }


def _table(rows: dict[str, dict], columns: tuple[str, ...]) -> None:
    width = max(len(name) for name in rows)
    print(" " * width + "".join(f"{column:>{max(len(column), 7) + 2}}" for column in columns))
    for name, row in rows.items():
        print(f"{name:{width}}" + "".join(f"{_number(row[column]):>{max(len(column), 7) + 2}}" for column in columns))


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
