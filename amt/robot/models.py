"""Models of robots' hands: gymnasium-robotics' Shadow and Adroit where that package is installed, or any MJCF file.

Fingers are found by :mod:`amt.robot.fingers`, the palm as the last body that all of them hang on. What lies above the palm
(a forearm, an arm, a wrist's joints) and beside it (a table, an object) is no part of the hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amt.hand.skeleton import FINGERS
from amt.robot.extra import RobotError, check_extra
from amt.robot.fingers import Given, chains_of, check_right, given_fingers

if TYPE_CHECKING:
    import mujoco

ASSETS = {
    "shadow": "hand/reach.xml",
    "adroit": "adroit_hand/adroit_relocate.xml",
}  # below gymnasium_robotics/envs/assets
APART = 0.005  # m: joints that are nearer are one place, as the two of a knuckle


@dataclass(frozen=True, eq=False)
class RobotHand:
    """A right hand, with its palm at rest in MuJoCo's world.

    ``places`` are the points that follow the person's: of each finger its joints from the knuckle on, and its tip, each as
    (body, point in the body's frame in m, joint of amt.hand.skeleton).
    """

    name: str
    model: mujoco.MjModel
    palm: int  # body
    fingers: tuple[str, ...]  # of FINGERS
    places: tuple[tuple[int, np.ndarray, int], ...]
    tips: tuple[int, ...]  # rows of places, one a finger
    joint_names: tuple[str, ...]
    dofs: np.ndarray  # int [n]: of these joints, all of them hinges
    addresses: np.ndarray  # int [n]: in qpos
    limits: np.ndarray  # float64 [n, 2], rad; infinite where there is none
    palm_points: np.ndarray  # float64 [K, 3], m: knuckles in the palm's frame, at rest; the first is the palm's origin
    palm_joints: tuple[int, ...]  # of amt.hand.skeleton, which these are

    @property
    def about(self) -> dict[str, Any]:
        """For files' metadata."""
        return {
            "name": self.name,
            "joint_names": list(self.joint_names),
            "joint_limits_rad": [[x if np.isfinite(x) else None for x in pair] for pair in self.limits.tolist()],
            "fingers": list(self.fingers),
            "palm": "4 x 4, m: from the palm's frame in the model to the camera, or to the world that --world names",
            "left": "a left hand's angles are those of the model's mirror image in x",
        }


def load_hand(given: str) -> RobotHand:
    """The hand "shadow", "adroit", or that of an MJCF file. Raises RobotError."""
    check_extra()
    path = _asset(given) if given in ASSETS else Path(given)
    if not path.is_file():
        raise RobotError(f"--retarget {given}: no such file; expected {', '.join(ASSETS)} or the path of an MJCF file")
    try:
        spec = _read(path)
        fingers = given_fingers(spec)
        model = _hand_alone(spec, fingers)
        return _described(given if given in ASSETS else path.stem, model, fingers)
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, RobotError):
            raise RobotError(f"--retarget {given}: {error}") from None
        raise RobotError(f"--retarget {given}: MuJoCo cannot read {path} ({' '.join(str(error).split())})") from None


def _asset(name: str) -> Path:
    found = find_spec("gymnasium_robotics")
    if found is None or not found.submodule_search_locations:
        raise RobotError(
            f"--retarget {name}: the package gymnasium-robotics, which holds this hand, is not installed; "
            "pip install gymnasium-robotics, or give the path of an MJCF file"
        )
    return Path(found.submodule_search_locations[0], "envs", "assets", ASSETS[name])


def _read(path: Path) -> mujoco.MjSpec:
    """The file, with a name for every body and joint. Raises ValueError."""
    import mujoco

    spec = mujoco.MjSpec.from_file(str(path))
    for kind, elements in (("body", spec.bodies), ("joint", spec.joints)):
        for k, element in enumerate(elements):
            element.name = element.name or f"{kind}{k}"
    return spec


def _hand_alone(spec: mujoco.MjSpec, fingers: Given) -> mujoco.MjModel:
    """The model without what moves it, what looks at it and what lies beside it."""
    for elements in (
        spec.sensors, spec.actuators, spec.tendons, spec.equalities, spec.pairs, spec.excludes, spec.keys, spec.skins,
        spec.flexes, spec.cameras, spec.lights, spec.tuples,
    ):  # fmt: skip
        for element in list(elements):
            spec.delete(element)
    kept = {_trunk(body, spec.worldbody) for body in spec.bodies if fingers.finger_of(body.name) is not None}
    for body in list(spec.worldbody.bodies):
        if body.name not in kept:
            spec.delete(body)
    return spec.compile()


def _trunk(body: Any, world: Any) -> str:
    while body.parent is not None and body.parent.name != world.name:
        body = body.parent
    return body.name


def _described(name: str, model: mujoco.MjModel, given: Given) -> RobotHand:
    import mujoco

    chains = chains_of(model, given)
    fingers = tuple(finger for finger in FINGERS if finger in chains)
    palm = next((b for b in chains["thumb"] if all(b in chains[f] for f in fingers)), None)
    if palm is None:
        raise RobotError("its fingers hang on no common palm; give a file with one hand")
    check_right(model, chains.values())
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    places, tips, palm_points, palm_joints = [], [], [np.zeros(3)], [0]
    turned, origin = data.xmat[palm].reshape(3, 3), data.xpos[palm]
    for finger in fingers:
        chain = chains[finger][: chains[finger].index(palm)]
        first = 1 + 4 * FINGERS.index(finger)
        joints = _joint_places(model, data, chain)[-3:]
        joints_of = range(first + 3 - len(joints), first + 3)
        places += [(body, np.zeros(3), joint) for body, joint in zip(joints[1:], list(joints_of)[1:])]
        tips.append(len(places))
        places.append((chain[0], _tip(model, data, chain[0]), first + 3))
        if (
            len(joints) == 3 and finger != "thumb"
        ):  # thumbs' bases differ too much: fingertips were 4 mm farther with it
            palm_points.append(turned.T @ (data.xpos[joints[0]] - origin))
            palm_joints.append(first)
    below = {b for finger in fingers for b in chains[finger][: chains[finger].index(palm)]}
    moved = [j for j in range(model.njnt) if model.jnt_bodyid[j] in below]
    if not moved:
        raise RobotError("its fingers have no joints; give the model of a hand that moves")
    others = [model.joint(j).name for j in moved if model.jnt_type[j] != int(mujoco.mjtJoint.mjJNT_HINGE)]
    if others:
        raise RobotError(f"the finger's joint {others[0]} is no hinge; only hands with hinges are followed")
    limits = np.where(model.jnt_limited[moved][:, None], model.jnt_range[moved], (-np.inf, np.inf))
    if np.isnan(limits).any():
        raise RobotError("a joint's range is not a number; correct it")
    return RobotHand(
        name=name,
        model=model,
        palm=palm,
        fingers=fingers,
        places=tuple(places),
        tips=tuple(tips),
        joint_names=tuple(_PREFIX_OF_SCENE.sub("", model.joint(j).name) for j in moved),
        dofs=model.jnt_dofadr[moved].copy(),
        addresses=model.jnt_qposadr[moved].copy(),
        limits=limits,
        palm_points=np.array(palm_points),
        palm_joints=tuple(palm_joints),
    )


_PREFIX_OF_SCENE = re.compile(r"^.*[:/]")


def _joint_places(model: mujoco.MjModel, data: mujoco.MjData, chain: list[int]) -> list[int]:
    """Bodies with joints, from the palm on; of those at one place the last, which every joint there moves."""
    found: list[int] = []
    for body in reversed(chain):
        if not model.body_jntnum[body]:
            continue
        if found and np.linalg.norm(data.xpos[body] - data.xpos[found[-1]]) < APART:
            found[-1] = body
        else:
            found.append(body)
    return found


def _tip(model: mujoco.MjModel, data: mujoco.MjData, body: int) -> np.ndarray:
    """The farthest site called "tip" of a finger's last body, else the farthest point of its shapes; in the body's frame, m."""
    sites = [s for s in range(model.nsite) if model.site_bodyid[s] == body and "tip" in model.site(s).name.lower()]
    if sites:
        return max((model.site_pos[s] for s in sites), key=lambda p: float(np.linalg.norm(p))).copy()
    points = [shape_points(model, g) for g in range(model.ngeom) if model.geom_bodyid[g] == body]
    if not points:
        return np.zeros(3)
    joined = np.concatenate(points)
    return joined[np.argmax(np.linalg.norm(joined, axis=1))]


def shape_points(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """float64 [N, 3], m: points on a shape, in its body's frame."""
    import mujoco

    kind, size = mujoco.mjtGeom(int(model.geom_type[geom])), model.geom_size[geom]
    signs = np.array(np.meshgrid((-1, 1), (-1, 1), (-1, 1))).reshape(3, 8).T.astype(np.float64)
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        mesh = model.geom_dataid[geom]
        first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        points = model.mesh_vert[first : first + count].astype(np.float64)
    elif kind in (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER):
        height = size[1] + (size[0] if kind == mujoco.mjtGeom.mjGEOM_CAPSULE else 0)
        points = signs * (0.7 * size[0], 0.7 * size[0], size[1])
        points = np.concatenate((points, [(0, 0, height), (0, 0, -height)]))
    elif kind in (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_ELLIPSOID):
        points = signs * size
    else:
        points = signs * (size[0] / np.sqrt(3))
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, model.geom_quat[geom])
    return points @ matrix.reshape(3, 3).T + model.geom_pos[geom]
