"""What physics says of a grasp: how deep, where it presses, whether it holds, and under which gravity it slips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from amt.hand.contact import CONTACT_DISTANCE
from amt.physics.bodies import CLOSED, HandBody, ObjectBody
from amt.physics.hold import HoldTest, hold
from amt.physics.overlap import overlap

MM, CM3 = 1e3, 1e6


@dataclass(frozen=True)
class PartPress:
    """One part of the hand that touches the object."""

    part: str
    depth_mm: float  # of its deepest vertex in the object; 0: none is inside
    contact_vertices: int  # within 5 mm of the object's surface, or inside
    force_n: float  # normal force on it after the fingers have closed


@dataclass(frozen=True)
class Verdict:
    """A judged grasp. ``str()`` is one line for people; :meth:`record` is plain numbers for JSON."""

    hand_depth_mm: float  # the largest depth of the hand's surface in the object
    object_depth_mm: float  # the largest depth of the object's surface in the hand
    volume_cm3: float  # exact volume of the intersection
    contact_ratio: float  # share of the hand's vertices within 5 mm of the object's surface, or inside
    presses: tuple[PartPress, ...]  # deepest first, then by force
    held: dict[str, bool]  # by the direction of gravity, in the hand's own axes
    moved_mm: dict[str, float]  # of the object's centre of mass, where the test of that direction ended
    turned_deg: dict[str, float]
    mass_kg: float
    friction: float
    object_mesh: str  # "closed", or what stands for an open mesh

    @property
    def depth_mm(self) -> float:
        """The larger of both depths."""
        return max(self.hand_depth_mm, self.object_depth_mm)

    @property
    def touches(self) -> bool:
        """Whether any vertex of the hand is in contact."""
        return self.contact_ratio > 0

    @property
    def holds(self) -> bool:
        """Whether the object stays under every direction of gravity."""
        return all(self.held.values())

    @property
    def slips(self) -> tuple[str, ...]:
        """The directions of gravity under which it does not."""
        return tuple(name for name, holds in self.held.items() if not holds)

    def record(self) -> dict[str, Any]:
        """All fields and properties as numbers, lists and text."""
        more = {name: getattr(self, name) for name in ("depth_mm", "touches", "holds", "slips")}
        return asdict(self) | more

    def __str__(self) -> str:
        deep = f"{self.hand_depth_mm:.1f} mm deep in the object, the object {self.object_depth_mm:.1f} mm in the hand"
        parts = ", ".join(press.part for press in self.presses if press.force_n > 0) or "no part"
        slips = f"slips under gravity {', '.join(self.slips)}" if self.slips else "holds under gravity from every side"
        body = f"{self.mass_kg * 1000:.0f} g, friction {self.friction:g}"
        mesh = "" if self.object_mesh == CLOSED else f"; the object's mesh is {self.object_mesh}"
        return f"{deep}, {self.volume_cm3:.2f} cm³ in common; {parts} presses; {slips} ({body}){mesh}"


def judge(hand: HandBody, held: ObjectBody, test: HoldTest | None = None) -> Verdict:
    """Judges one grasp.

    Args:
        hand: ``HandBody.of(vertices, model)``; predicted or true.
        held: ``ObjectBody(vertices, faces).at(rotation, translation)``, its pose in the frame of the hand's vertices.
        test: what "holds" means.

    Raises:
        MissingExtra: the extra ``physics`` is not installed.
        MeshError: numbers that are not finite, a mesh in millimetres, a hand with an open surface, a pose that is no rotation.
    """
    test = test or HoldTest()
    inverse = held.rotation.T
    own = hand.moved(inverse, -inverse @ held.translation)
    common = overlap(own.solid, held.solid, held.surface)
    signed = _near(own.vertices, held, common.first_depth)
    outcome = hold(hand, held, test)
    touching = signed[hand.part_of >= 0] <= CONTACT_DISTANCE
    presses = []
    for number, name in enumerate(hand.parts):
        mine = signed[hand.part_of == number]
        count, force = int((mine <= CONTACT_DISTANCE).sum()), outcome.forces.get(name, 0.0)
        if count or force:
            presses.append(PartPress(name, max(0.0, -float(mine.min(initial=np.inf))) * MM, count, force))
    results = outcome.by_gravity
    return Verdict(
        hand_depth_mm=common.first_depth * MM,
        object_depth_mm=common.second_depth * MM,
        volume_cm3=common.volume * CM3,
        contact_ratio=float(touching.mean()),
        presses=tuple(sorted(presses, key=lambda press: (-press.depth_mm, -press.force_n))),
        held={name: result.holds for name, result in results.items()},
        moved_mm={name: result.moved * MM for name, result in results.items()},
        turned_deg={name: result.turned for name, result in results.items()},
        mass_kg=held.inertia[0],
        friction=test.friction,
        object_mesh=held.treatment,
    )


def judge_all(
    pairs: Iterable[tuple[HandBody, ObjectBody]], test: HoldTest | None = None, workers: int = 1
) -> list[Verdict]:
    """:func:`judge` of many grasps by several threads; MuJoCo and manifold3d let other threads run."""
    if workers == 1:
        return [judge(hand, held, test) for hand, held in pairs]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda pair: judge(*pair, test), pairs))


def score(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Means over judged grasps, for a table or metrics.json; of none, their number alone.

    ``touching_rate`` is the share of grasps with contact. ``hold_rate`` is the share that holds under every gravity,
    ``hold_rate_by_direction`` the mean share of directions.
    """

    def mean(values) -> float:
        return sum(map(float, values)) / len(verdicts)

    if not verdicts:
        return {"grasps": 0}
    return {
        "grasps": len(verdicts),
        "true_depth_mm": mean(v.depth_mm for v in verdicts),
        "hand_depth_mm": mean(v.hand_depth_mm for v in verdicts),
        "object_depth_mm": mean(v.object_depth_mm for v in verdicts),
        "intersection_cm3": mean(v.volume_cm3 for v in verdicts),
        "contact_ratio": mean(v.contact_ratio for v in verdicts),
        "touching_rate": mean(v.touches for v in verdicts),
        "hold_rate": mean(v.holds for v in verdicts),
        "hold_rate_by_direction": mean(np.mean(list(v.held.values())) for v in verdicts),
    }


def _near(vertices: np.ndarray, held: ObjectBody, depth: float) -> np.ndarray:
    """Signed distance of points of the object's frame, m; infinite where they are clearly farther outside than a contact.

    Args:
        depth: m: no point is deeper inside.
    """
    low, high = held.solid.vertices.min(0) - CONTACT_DISTANCE, held.solid.vertices.max(0) + CONTACT_DISTANCE
    near = ((vertices >= low) & (vertices <= high)).all(1)
    if depth < CONTACT_DISTANCE:  # what is farther from the surface than that is outside
        near[near] = held.surface.bounds(vertices[near]) - held.surface.radius <= CONTACT_DISTANCE
    found = np.full(len(vertices), np.inf)
    found[near] = held.surface.signed(vertices[near])
    return found
