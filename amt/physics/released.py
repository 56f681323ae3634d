"""The physical figures of DeepSimHO and VPHO, as DeepSimHO's released code computes them, with what is wrong with them.

Facts from github.com/rongakowang/DeepSimHO (commit e6f7051; Wang et al., NeurIPS 2023), none of its code: MuJoCo with its
defaults (2 ms steps, friction 1); the hand is one fixed body of 16 hulls, each of all triangles that touch a part; the object is
free, with its full mesh counted into its mass beside its convex parts; gravity is 9.8 m/s² along the camera's +y.

Two of the figures do not say what their names say:

- ``pd_released``, printed there as "penetration depth" in mm, is the SQUARED distance of the hand vertex that lies farthest
  OUTSIDE the object, in m², times 1,000. A hand that is 11.6 cm away at its farthest vertex gets 13.5.
- ``sd`` and ``sr`` come from a hand that an adhesion actuator of 1,000 N glues to whatever it touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from amt.physics.bodies import HandBody, ObjectBody
from amt.physics.extra import package

STEPS = 100  # 0.2 s
GRAVITY = 9.8  # m/s²
DOWN = (0.0, 1.0, 0.0)  # in a camera's frame: x right, y down, z forward
GAIN, CONTROL = 100.0, 10.0  # of the adhesion actuator: their product is the force in N
MOST_MOVED = 0.01  # m


@dataclass(frozen=True)
class DeepSimHO:
    """One grasp by that protocol."""

    pd_released: float  # 1,000 x m²: not a depth; NaN where no vertex lies outside the object
    sd_mm: float  # displacement of the object's origin after 0.2 s
    sr: bool  # sd of at most 1 cm
    cp: bool  # any contact before the first step


def deepsimho(hand: HandBody, held: ObjectBody) -> DeepSimHO:
    """Judges one grasp, given in the camera's frame (x right, y down, z forward)."""
    mujoco = package("mujoco")
    model = _world(hand, held).compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    contacts, before = data.ncon, data.qpos[:3].copy()
    mujoco.mj_resetData(model, data)
    data.ctrl[:] = CONTROL
    mujoco.mj_step(model, data, STEPS)
    moved = float(np.linalg.norm(data.qpos[:3] - before))
    vertices = (hand.vertices[hand.part_of >= 0] - held.translation) @ held.rotation
    released = 1e3 * held.surface.farthest_outside(vertices) ** 2
    return DeepSimHO(released, 1e3 * moved, moved <= MOST_MOVED, contacts > 0)


def mean_figures(judged: Sequence[DeepSimHO]) -> dict[str, float]:
    """Means over grasps under the names of the papers."""
    return {f.name: float(np.mean([getattr(one, f.name) for one in judged])) for f in fields(DeepSimHO)}


def _world(hand: HandBody, held: ObjectBody):
    mujoco = package("mujoco")
    spec, mesh = mujoco.MjSpec(), mujoco.mjtGeom.mjGEOM_MESH
    spec.option.gravity = [GRAVITY * part for part in DOWN]
    body = spec.worldbody.add_body(name="hand")
    for part in range(len(hand.parts)):
        touching = hand.faces[(hand.part_of[hand.faces] == part).any(1)]
        chosen = np.unique(touching[(hand.part_of[touching] >= 0).all(1)])
        if len(chosen) >= 4:
            spec.add_mesh(name=f"hand{part}", uservert=hand.vertices[chosen].ravel())
            body.add_geom(type=mesh, meshname=f"hand{part}")
    actuator = spec.add_actuator(name="adhesion", target="hand", trntype=mujoco.mjtTrn.mjTRN_BODY)
    actuator.gaintype, actuator.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_NONE
    actuator.gainprm[0], actuator.ctrlrange, actuator.ctrllimited = GAIN, (0, CONTROL), True
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, held.rotation.ravel())
    body = spec.worldbody.add_body(name="object", pos=held.translation, quat=quaternion)
    body.add_freejoint()
    spec.add_mesh(name="object", uservert=held.solid.vertices.ravel(), userface=held.solid.faces.ravel())
    body.add_geom(type=mesh, meshname="object", contype=0, conaffinity=0)
    for k, hull in enumerate(held.hulls):
        spec.add_mesh(name=f"object{k}", uservert=hull.ravel())
        body.add_geom(type=mesh, meshname=f"object{k}", condim=6)
    return spec
