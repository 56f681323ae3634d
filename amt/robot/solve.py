"""Joint angles of a robot's hand that follow a person's joints: inverse kinematics by mink, a step a frame.

As in dex-retargeting (Qin et al., "AnyTeleop", RSS 2023): vectors from the palm to the fingertips and from the thumb to the other
tips, scaled to the robot's size. The palm lies where the person's knuckles say. A step minimises

    Σ w_k² |p_k(q) - s x_k|² + Σ v_f² |(p_thumb - p_f)(q) - s (x_thumb - x_f)|² + c² |q - q_before|²

within the joints' limits; w is 1 at the tips and less at the joints before them, v grows where thumb and finger close.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from amt.hand.skeleton import FINGER_JOINTS
from amt.robot.models import RobotHand

JOINT_WEIGHT = 0.05  # beside 1 of a tip
PINCH = 0.03  # m: the distance of two tips at which their vector weighs 1/e of its most
SMOOTH = 0.01  # m/rad: of a joint that moves between two frames
STEPS, FIRST_STEPS = 4, 60  # iterations of a frame, and of the first one
MIRROR = np.array((-1.0, 1.0, 1.0))


@dataclass(frozen=True)
class HandMotion:
    """A robot's hand at one moment. The frame is the camera's, in metres."""

    angles: np.ndarray  # float64 [n], rad: of RobotHand.joint_names
    palm: np.ndarray  # float64 [4, 4]: from the palm's frame to the fixed one: the camera's, or the world's
    palm_camera: np.ndarray  # float64 [4, 4]: from the palm's frame to the camera's
    tips: np.ndarray  # float64 [F, 3], m: in the camera's frame
    tip_error_mm: np.ndarray  # float64 [F]: from the scaled hand's tips
    side: str  # a left hand's angles are those of the model's mirror image
    scale: float  # robot's size over the person's


class Retargeter:
    """Follows one hand, frame by frame; each frame starts from the one before.

    Args:
        hand: the robot's.
        world: [4, 4]: takes the camera's frame to the fixed one; None: the camera is fixed.
    """

    def __init__(self, hand: RobotHand, world: np.ndarray | None = None):
        import mink

        self.hand, self.world = hand, world
        self.configuration = mink.Configuration(hand.model)
        self.limit = mink.ConfigurationLimit(hand.model)
        self.task = _task(hand)
        self._lengths: list[float] = []
        self._begun = False

    def next(self, joints: np.ndarray, side: str = "right") -> HandMotion:
        """The robot's hand for the person's joints.

        Args:
            joints: [21, 3], m, in the order of amt.hand.skeleton, in the camera's frame.
            side: "right" or "left".

        Raises:
            ValueError: joints of another shape, or that are not finite.
        """
        import mink

        points = np.asarray(joints, np.float64)
        if points.shape != (21, 3) or not np.isfinite(points).all():
            raise ValueError(f"joints: expected finite numbers [21, 3] in metres, got {list(points.shape)}")
        points = points * MIRROR if side == "left" else points
        self._lengths.append(_length(points, self.hand.fingers))
        scale = self._robot_length / float(np.median(self._lengths))
        scaled = points[0] + scale * (points - points[0])
        palm = _rigid(self.hand.palm_points, scaled[list(self.hand.palm_joints)])
        wanted = (scaled - palm[:3, 3]) @ palm[:3, :3]  # in the palm's frame
        self.task.aim(wanted, self.configuration.q)
        for _ in range(STEPS if self._begun else FIRST_STEPS):
            velocity = mink.solve_ik(self.configuration, [self.task], 1.0, "daqp", damping=1e-9, limits=[self.limit])
            self.configuration.integrate_inplace(velocity, 1.0)
        self._begun = True
        angles = np.clip(self.configuration.q[self.hand.addresses], *self.hand.limits.T)
        return self._motion(angles, palm, wanted, side, scale)

    def _motion(self, angles: np.ndarray, palm: np.ndarray, wanted: np.ndarray, side: str, scale: float) -> HandMotion:
        found = self.task.places(self.configuration)[list(self.hand.tips)]
        aims = wanted[[self.hand.places[k][2] for k in self.hand.tips]]
        tips = found @ palm[:3, :3].T + palm[:3, 3]
        if side == "left":
            tips = tips * MIRROR
            palm = np.diag((*MIRROR, 1.0)) @ palm @ np.diag((*MIRROR, 1.0))
        return HandMotion(
            angles=angles,
            palm=palm if self.world is None else self.world @ palm,
            palm_camera=palm,
            tips=tips,
            tip_error_mm=1000 * np.linalg.norm(found - aims, axis=1),
            side=side,
            scale=scale,
        )

    @cached_property
    def _robot_length(self) -> float:
        """Mean length of the fingers without the thumb, from knuckle to tip, m; the configuration is at rest."""
        points = {joint: p for p, (_, _, joint) in zip(self.task.places(self.configuration), self.hand.places)}
        points |= dict(zip(self.hand.palm_joints, self.hand.palm_points))
        lengths = []
        for finger in self.hand.fingers:
            chain = [points[joint] for joint in FINGER_JOINTS[finger] if joint in points]
            if finger != "thumb":
                lengths.append(sum(float(np.linalg.norm(b - a)) for a, b in pairwise(chain)))
        return float(np.mean(lengths))


def retarget(
    hand: RobotHand, joints: np.ndarray, side: str = "right", world: np.ndarray | None = None
) -> list[HandMotion]:
    """The robot's hand for every frame of joints [T, 21, 3], m. Raises ValueError."""
    follower = Retargeter(hand, world)
    return [follower.next(points, side) for points in np.asarray(joints)]


def _length(points: np.ndarray, fingers: Sequence[str]) -> float:
    """Mean length of the fingers without the thumb, m."""
    chains = [points[list(FINGER_JOINTS[finger])] for finger in fingers if finger != "thumb"]
    return float(np.mean([np.linalg.norm(np.diff(chain, axis=0), axis=1).sum() for chain in chains]))


def _rigid(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[4, 4]: the rotation and translation that bring points [K, 3] nearest to others (Kabsch)."""
    middle, other = points.mean(0), others.mean(0)
    u, _, vt = np.linalg.svd((points - middle).T @ (others - other))
    sign = np.diag((1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))))
    rotation = vt.T @ sign @ u.T
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = rotation, other - rotation @ middle
    return found


def _task(hand: RobotHand):
    """One mink task with all residuals: a Jacobian for all is cheaper than a task for each."""
    import mink
    import mujoco

    thumb, *others = hand.tips
    pairs = [(thumb, other) for other in others]
    weights = np.full(len(hand.places), JOINT_WEIGHT)
    weights[list(hand.tips)] = 1.0

    class Follow(mink.Task):
        def __init__(self):
            self.vectors = np.ones(len(pairs))
            super().__init__(cost=self._cost())
            self.jacobian = np.zeros((3, hand.model.nv))
            self.frozen = np.setdiff1d(np.arange(hand.model.nv), hand.dofs)

        def _cost(self) -> np.ndarray:
            costs = np.concatenate((weights, self.vectors))
            return np.concatenate((np.repeat(costs, 3), np.full(len(hand.dofs), SMOOTH)))

        def aim(self, wanted: np.ndarray, before: np.ndarray) -> None:
            """Targets [21, 3] in the palm's frame (m), and the configuration of the frame before."""
            self.wanted = wanted[[joint for _, _, joint in hand.places]]
            self.apart = np.array([self.wanted[a] - self.wanted[b] for a, b in pairs])
            self.vectors = np.exp(-np.linalg.norm(self.apart, axis=1) / PINCH)
            self.before, self.cost = before[hand.addresses].copy(), self._cost()

        def places(self, configuration) -> np.ndarray:
            """[K, 3], m: the hand's places in the palm's frame."""
            data = configuration.data
            turned, origin = data.xmat[hand.palm].reshape(3, 3), data.xpos[hand.palm]
            points = [data.xmat[b].reshape(3, 3) @ p + data.xpos[b] for b, p, _ in hand.places]
            return (np.array(points) - origin) @ turned

        def compute_error(self, configuration) -> np.ndarray:
            points = self.places(configuration)
            apart = np.array([points[a] - points[b] for a, b in pairs]) - self.apart
            moved = configuration.q[hand.addresses] - self.before
            return np.concatenate(((points - self.wanted).ravel(), apart.ravel(), moved))

        def compute_jacobian(self, configuration) -> np.ndarray:
            data, rows = configuration.data, []
            turned = data.xmat[hand.palm].reshape(3, 3)
            for body, point, _ in hand.places:
                world = data.xmat[body].reshape(3, 3) @ point + data.xpos[body]
                mujoco.mj_jac(hand.model, data, self.jacobian, None, world, body)
                rows.append(turned.T @ self.jacobian)
            rows += [rows[a] - rows[b] for a, b in pairs]
            smooth = np.zeros((len(hand.dofs), hand.model.nv))
            smooth[np.arange(len(hand.dofs)), hand.dofs] = 1.0
            stacked = np.concatenate((*rows, smooth))
            stacked[:, self.frozen] = 0.0
            return stacked

    return Follow()
