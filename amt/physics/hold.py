"""Does the hand hold the object? MuJoCo, without adhesion: friction and the fingers' own small force must do it.

The hand's convex pieces stand at the predicted pose. The palm is fixed. Each finger is one rigid body on a spring that closes it
about its base joint. The spring gives way where finger and object overlap: rigid fingers would squeeze with hundreds of newtons,
and the deepest prediction would hold best. Nothing but the object feels gravity. The fingers close for a while without gravity
on an object in a thick fluid, so that overlaps push it aside and do not throw it. Then each direction of gravity is tried
without the fluid.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from amt.errors import UsageError
from amt.physics.bodies import HandBody, ObjectBody
from amt.physics.extra import package
from amt.physics.solids import MeshError

GRAVITY = 9.81  # m/s²
STEP = 0.002  # s
LOOK = 10  # steps between two looks
REST = 5e-5  # m: an object that moves less than this in RESTING lies still
RESTING = 0.1  # s
FLUID = 50.0, 0.1  # N s/m and N m s/rad: its drag on the object
FINGER_MASS = 0.1  # kg at the tip: as a finger's own inertia with that of the flesh behind it
HAND, OBJECT = 1, 2  # bits of what collides: the hand with the object, and nothing else


@dataclass(frozen=True)
class HoldTest:
    """What "holds" means."""

    friction: float = 0.8  # Coulomb's, of skin on the object
    torsion: float = 0.005  # m: of a fingertip's patch, against turning about the contact's normal
    force: float = 5.0  # N: of a finger at its tip, at the predicted pose (the thumb's is twice that); 0: rigid fingers
    travel: float = (
        0.01  # m that the tip closes until the spring is slack; pushed open as far, it presses twice as hard
    )
    settle: float = 0.2  # s without gravity, while fingers close
    seconds: float = 1.0  # under each gravity
    most_moved: float = 0.01  # m, of the centre of mass from the predicted place, at any time
    most_turned: float = 15.0  # degrees

    def __post_init__(self):
        for f in fields(self):
            value, zero = getattr(self, f.name), f.name in ("friction", "torsion", "force", "settle")
            if not (value >= 0 if zero else value > 0) or not math.isfinite(value):
                least = "not be negative" if zero else "be above 0"
                raise UsageError(f"HoldTest: {f.name} must {least} and finite, got {value!r}")


class Held(NamedTuple):
    """The outcome under one gravity."""

    holds: bool
    moved: float  # m: how far from the predicted place, where the test ended
    turned: float  # degrees
    seconds: float  # when it ended: at once where it slipped


class HoldResult(NamedTuple):
    by_gravity: dict[str, Held]
    forces: dict[
        str, float
    ]  # N by part of the hand, sum of the normal forces after the fingers closed; only those that press


def hold(hand: HandBody, held: ObjectBody, test: HoldTest | None = None) -> HoldResult:
    """Tries every direction of ``hand.directions``. The same input gives the same bits."""
    test = test or HoldTest()
    mujoco = package("mujoco")
    model, parts = _world(hand, held, test)
    data = mujoco.MjData(model)
    start = held.rotation @ held.inertia[1] + held.translation, held.rotation
    body = model.body("object").id
    free = model.body_dofadr[body] + np.arange(6)
    model.dof_damping[free] = np.repeat(FLUID, 3)
    settled = _run(mujoco, model, data, body, start, test, test.settle, resting=test.settle)
    model.dof_damping[free] = 0
    forces = {hand.parts[part]: force for part, force in sorted(_forces(mujoco, model, data, parts).items())}
    if not settled.holds:  # closing fingers drive it out: no gravity changes that
        return HoldResult(dict.fromkeys(hand.directions, settled), forces)
    kept = [np.array(values) for values in (data.qpos, data.qacc_warmstart)]
    found = {}
    for name, direction in hand.directions.items():
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qacc_warmstart[:] = kept
        model.opt.gravity[:] = GRAVITY * np.asarray(direction)
        found[name] = _run(mujoco, model, data, body, start, test, test.seconds)
    return HoldResult(found, forces)


def _run(mujoco, model, data, body: int, start, test: HoldTest, seconds: float, resting: float = RESTING) -> Held:
    """Steps until the time is over, the object has slipped, or it has lain still for ``resting`` s.

    MuJoCo puts a simulation that has become unstable back to its beginning: such an object is not held.
    """
    place, rotation = start
    before, since = data.xipos[body].copy(), 0.0
    for look in itertools.count(1):
        mujoco.mj_step(model, data, LOOK)
        stable = data.time > (look * LOOK - 0.5) * STEP
        at = data.xipos[body]
        moved = float(np.linalg.norm(at - place))
        cosine = (np.trace(rotation.T @ data.xmat[body].reshape(3, 3)) - 1) / 2
        turned = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        if not stable or not moved <= test.most_moved or not turned <= test.most_turned:  # NaN, too
            return Held(False, moved, turned, look * LOOK * STEP)
        if np.linalg.norm(at - before) > REST:
            before, since = at.copy(), data.time
        if data.time >= seconds - STEP / 2 or data.time - since >= resting:
            return Held(True, moved, turned, data.time)


def _world(hand: HandBody, held: ObjectBody, test: HoldTest):
    """The compiled model, and the part of the hand by the number of each geometry (-1: the object)."""
    mujoco = package("mujoco")
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    option = spec.option
    option.timestep, option.gravity = STEP, (0, 0, 0)
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0
    option.iterations = 30
    spec.compiler.boundmass = spec.compiler.boundinertia = 1e-9
    geoms: dict[str, int] = {}
    friction = (test.friction, test.torsion, 1e-4)

    def add(body, vertices: np.ndarray, part: int) -> None:
        name = f"{'object' if part < 0 else 'hand'}{len(geoms)}"
        spec.add_mesh(name=name, uservert=vertices.ravel(), inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX)
        body.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=name,
            contype=OBJECT if part < 0 else HAND,
            conaffinity=HAND if part < 0 else OBJECT,
            condim=4,
            friction=friction,
            mass=0.0 if part < 0 else 0.01,
            solref=(0.005, 1.0),
        )
        geoms[name] = part

    bodies = {}
    for number, hinge in enumerate(hand.hinges if test.force > 0 else ()):
        body = spec.worldbody.add_body(name=f"finger{number}", pos=hinge.anchor, gravcomp=1.0)
        slack, inertia = test.travel / hinge.reach, FINGER_MASS * hinge.reach**2
        stiffness = hinge.strength * test.force * hinge.reach / slack
        body.add_joint(
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=hinge.axis,
            stiffness=stiffness,
            springref=slack,
            damping=2 * np.sqrt(stiffness * inertia),  # critical: it comes to rest as fast as it can
            armature=inertia,
        )
        bodies |= dict.fromkeys(hinge.parts, (body, hinge.anchor))
    for part, chosen in hand.pieces:
        body, anchor = bodies.get(part, (spec.worldbody, 0.0))
        add(body, hand.vertices[chosen] - anchor, part)

    mass, centre, inertia = held.inertia
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, held.rotation.ravel())
    body = spec.worldbody.add_body(name="object", pos=held.translation, quat=quaternion)
    body.add_freejoint()
    body.explicitinertial, body.mass, body.ipos = True, mass, centre
    body.fullinertia = (*np.diag(inertia), inertia[0, 1], inertia[0, 2], inertia[1, 2])
    for hull in held.hulls:
        add(body, hull, -1)
    try:
        model = spec.compile()
    except ValueError as error:  # MuJoCo's, of two lines
        raise MeshError(
            f"{held.name}: MuJoCo cannot simulate it ({' '.join(str(error).split())}); repair the mesh"
        ) from error
    return model, {
        model.geom(name).id: part for name, part in geoms.items()
    }  # a body's come together, in another order


def _forces(mujoco, model, data, parts: dict[int, int]) -> dict[int, float]:
    """N by part: the sum of the normal forces on it."""
    found: dict[int, float] = {}
    force = np.zeros(6)
    for k in range(data.ncon):
        mujoco.mj_contactForce(model, data, k, force)
        part = max(parts[int(g)] for g in data.contact.geom[k])
        if force[0] > 0:
            found[part] = found.get(part, 0.0) + float(force[0])
    return found
