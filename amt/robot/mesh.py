"""A coarse mesh of a robot's hand for drawing: the convex hull of each shape, by its extreme points in a few directions."""

from __future__ import annotations

import numpy as np

from amt.robot.models import RobotHand, shape_points
from amt.robot.solve import MIRROR, HandMotion

DIRECTIONS = 40  # of a hull: some 70 triangles a shape


class RobotMesh:
    """The palm and all that hangs on it.

    Attributes:
        faces: int [F, 3], counter-clockwise from outside.
    """

    def __init__(self, hand: RobotHand):
        import mujoco

        self.hand, self.data = hand, mujoco.MjData(hand.model)
        model, parts, faces, self.bodies = hand.model, [], [], []
        drawn = _drawn(hand)
        for geom in drawn:
            points, triangles = _hull(shape_points(model, geom))
            faces.append(triangles + sum(map(len, parts)))
            parts.append(points)
            self.bodies += [int(model.geom_bodyid[geom])] * len(points)
        self.points, self.faces = np.concatenate(parts), np.concatenate(faces)
        self.bodies = np.array(self.bodies)

    def posed(self, motion: HandMotion) -> tuple[np.ndarray, np.ndarray]:
        """Vertices [V, 3] (m, the camera's frame) and triangles [F, 3] of the hand at one moment."""
        import mujoco

        data, hand = self.data, self.hand
        data.qpos[hand.addresses] = motion.angles
        mujoco.mj_kinematics(hand.model, data)
        turned = data.xmat.reshape(-1, 3, 3)
        world = np.einsum("nij,nj->ni", turned[self.bodies], self.points) + data.xpos[self.bodies]
        points = (world - data.xpos[hand.palm]) @ turned[hand.palm]
        left = motion.side == "left"
        points = points * MIRROR if left else points
        points = points @ motion.palm_camera[:3, :3].T + motion.palm_camera[:3, 3]
        return points, self.faces[:, ::-1] if left else self.faces


def _drawn(hand: RobotHand) -> list[int]:
    """The shapes of the palm and the fingers that are meshes; all of them where none is."""
    import mujoco

    model, of_hand = hand.model, {hand.palm}
    for body in range(hand.palm + 1, model.nbody):
        if int(model.body_parentid[body]) in of_hand:
            of_hand.add(body)
    geoms = [geom for geom in range(model.ngeom) if int(model.geom_bodyid[geom]) in of_hand]
    meshes = [geom for geom in geoms if model.geom_type[geom] == int(mujoco.mjtGeom.mjGEOM_MESH)]
    return meshes or geoms


def _hull(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and triangles of a convex hull of at most :data:`DIRECTIONS` corners."""
    from scipy.spatial import ConvexHull

    k = np.arange(DIRECTIONS) + 0.5
    height, around = 1 - 2 * k / DIRECTIONS, np.pi * (1 + 5**0.5) * k
    flat = np.sqrt(1 - height**2)
    directions = np.stack((flat * np.cos(around), flat * np.sin(around), height), 1)
    corners = points[np.unique(np.argmax(points @ directions.T, axis=0))]
    hull = ConvexHull(corners)
    triangles = hull.simplices.copy()
    a, b, c = (corners[triangles[:, k]] for k in range(3))
    inward = np.einsum("ij,ij->i", np.cross(b - a, c - a), hull.equations[:, :3]) < 0
    triangles[inward] = triangles[inward][:, ::-1]
    return corners, triangles
