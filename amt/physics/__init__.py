"""Physics of a grasp: true penetration depth, exact intersection volume, where the hand presses, and whether the object holds.

Needs the extra ``physics`` (MuJoCo, CoACD, manifold3d; CPU)::

    from amt import physics

    mug = physics.ObjectBody(vertices, faces, name="mug")  # a mesh in metres
    hand = physics.HandBody.of(result.vertices, amt.hand.load(side=result.side))
    verdict = physics.judge(hand, mug.at(result.object_rotation, result.object_translation))
    print(verdict)  # how deep, where it presses, under which gravity it slips
    verdict.depth_mm, verdict.volume_cm3, verdict.holds, verdict.slips

``python -m amt.physics ROOT`` judges the labels of a set. Definitions: docs/physics.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amt.physics.bodies import HandBody, Hinge, ObjectBody
    from amt.physics.extra import MissingExtra
    from amt.physics.hold import HoldTest
    from amt.physics.released import DeepSimHO, deepsimho
    from amt.physics.solids import MeshError
    from amt.physics.verdict import PartPress, Verdict, judge, judge_all, score

_MODULES = {  # of each name; imported when it is asked for, as they bring PyTorch
    "bodies": ("HandBody", "Hinge", "ObjectBody"),
    "released": ("DeepSimHO", "deepsimho"),
    "extra": ("MissingExtra",),
    "hold": ("HoldTest",),
    "verdict": ("PartPress", "Verdict", "judge", "judge_all", "score"),
    "solids": ("MeshError",),
}
__all__ = [
    "DeepSimHO", "HandBody", "Hinge", "HoldTest", "MeshError", "MissingExtra", "ObjectBody", "PartPress", "Verdict", "deepsimho",
    "judge", "judge_all", "score",
]  # fmt: skip


def __getattr__(name: str):
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"amt.physics.{module}"), name)
    raise AttributeError(f"module 'amt.physics' has no attribute {name!r}")
