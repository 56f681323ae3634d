"""``python -m tools.grasps [N] [--seed S]``: searches N grasps as the synthetic writer does and prints how good they are.

Depths are measured against samples of the objects' surfaces, not on the grid that the search uses. One thread.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from amt.data.synthetic import scene
from amt.data.synthetic.config import SetConfig
from amt.data.synthetic.distance import SignedDistance
from amt.data.synthetic.grasp_types import TYPES
from amt.data.synthetic.grasps import Grasp, find_grasp
from amt.data.synthetic.objects import Shape, load_shapes
from amt.data.synthetic.person_hand import Hand
from amt.data.synthetic.piercing import piercing_depths
from amt.data.synthetic.touch import nearest_on_mesh
from amt.hand.rotations import axis_angle_to_matrix

SURFACE = 50_000  # points that stand for an object's surface
CONTACT = 0.005  # m, that of the contact labels


@dataclass(frozen=True)
class Quality:
    """What one grasp is like."""

    kind: str
    good: bool
    fingers: int  # with contact
    contacts: int  # vertices
    depth: float  # m, of the hand's deepest vertex in the object
    back: float  # m, of the object's deepest point in the hand
    piercing: float  # m, of the hand by itself
    excess: float  # deg, of the joint that is farthest outside its limits, closed or open
    seconds: float  # of CPU time to find it


def measure(hand: Hand, grasp: Grasp, shape: Shape, surface, seconds: float) -> Quality:
    """``surface``: a k-d tree of points of the shape's surface, and their normals [N, 3]."""
    fingers = torch.from_numpy(np.stack((grasp.fingers, grasp.open_fingers)).reshape(2, 15, 3)).float()
    rotations = torch.cat((torch.eye(3).expand(2, 1, 3, 3), axis_angle_to_matrix(fingers)), 1)
    own = hand.vertices(rotations)[0].astype(float)
    vertices = (own - hand.root) @ grasp.rotation.T + hand.root + grasp.translation
    tree, normals = surface
    length, nearest = tree.query(vertices)
    plane = ((vertices - tree.data[nearest]) * normals[nearest]).sum(1)
    gap = np.where(length < 0.002, plane, np.where(shape.inside(vertices), -length, length))
    touch = gap < CONTACT
    near = tree.data[((tree.data > vertices.min(0)) & (tree.data < vertices.max(0))).all(1)]
    return Quality(
        grasp.kind,
        grasp.good,
        len(set(hand.finger_of[touch]) - {-1}),
        int(touch.sum()),
        max(0.0, -float(gap.min())),
        max(0.0, -float(nearest_on_mesh(near, vertices, hand.model.f).signed.min(initial=0.0))),
        float(piercing_depths(own, hand.model.f).max(initial=0)),
        float(np.degrees(hand.excess(rotations).max())),
        seconds,
    )


def grasps(count: int, seed: int) -> list[Quality]:
    """Quality of the grasps of the first ``count`` independent scenes of a seed."""
    from scipy.spatial import cKDTree
    from tqdm import tqdm

    config = SetConfig(independent=count, seed=seed)
    shapes, hands = load_shapes(), {side: config.hand(side) for side in ("left", "right")}
    classes = [c for c in shapes if c != 19]
    distances, surfaces, found = {}, {}, []
    for spec in tqdm(config.specs(), unit="grasp"):
        held = scene.sequence_class(seed, 0, spec.scene, 0, classes)
        shape = shapes[held]
        if held not in distances:
            distances[held] = SignedDistance.of(shape)
            points, normals = shape.surface_points(SURFACE, seed=1)
            surfaces[held] = cKDTree(points), normals
        side = scene.sequence_side(seed, spec.subject, spec.sequence)
        start = time.process_time()
        hand = Hand(hands[side], scene.person(seed, spec.person).betas)
        grasp = find_grasp(hand, shape, distances[held], scene.sequence_rng(seed, spec.subject, spec.sequence))
        found.append(measure(hand, grasp, shape, surfaces[held], time.process_time() - start))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.grasps", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=200, metavar="N", help="(default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = grasps(arguments.count, arguments.seed)
    names = ("good", "fingers", "contacts", "depth", "back", "piercing", "excess", "seconds")
    good, fingers, contacts, depth, back, piercing, excess, seconds = (
        np.array([getattr(q, name) for q in found], float) for name in names
    )
    kinds = Counter(q.kind for q in found)
    print(f"{len(found)} grasps, {1e3 * seconds.mean():.0f} ms each (median {1e3 * np.median(seconds):.0f})")
    print("types " + ", ".join(f"{kind} {kinds[kind]}" for kind in TYPES))
    power = np.array([q.kind == "power" for q in found])
    print(
        f"meet every demand {good.mean():.3f}; power grasps on three or more fingers {(fingers[power] >= 3).mean():.3f}"
    )
    print(f"contacts {contacts.mean():.0f} vertices (fewest {contacts.min():.0f})")
    both = np.maximum(depth, back)
    for name, depths in (("hand in object", depth), ("object in hand", back), ("the deeper of both", both)):
        print(f"{name}: {1e3 * depths.mean():.2f} mm mean, {1e3 * depths.max():.2f} mm at most")
    print(
        f"hand pierces itself by 2 mm at most {(piercing <= 0.002).mean():.3f}, {1e3 * piercing.max():.2f} mm at most"
    )
    print(f"joints outside their limits by {excess.mean():.2f} deg mean, {excess.max():.2f} deg at most")


if __name__ == "__main__":
    main()
