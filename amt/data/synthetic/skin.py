"""What a hand's surface looks like: tone, creases, knuckles, nails. Detail lies in the rest pose and moves with the skin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from amt.data.synthetic.appearance import noise
from amt.hand.limits import finger_frames
from amt.hand.mano import HandModel
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS

DARK, LIGHT = np.array([0.115, 0.056, 0.036]), np.array([0.76, 0.50, 0.38])  # linear RGB of the extreme tones
CREASE = 0.0007  # m: half the width of a flexion crease
FINGER_RADIUS = 0.012  # m: how far from a finger's axis its creases reach
WRINKLE = 0.0028  # m: from one wrinkle of a knuckle to the next
CELL, SPAN = 0.0004, 0.16  # m: cells and side of the map of the palm's lines
PALM_DEPTH = 0.002  # m from the joints' plane toward the palm: there begins its skin
FADED = 0.012  # m: farther from a line of the palm its depth is 0 in float32
KNUCKLE = 0.007  # m: how far wrinkles reach along the finger
NEAR = 0.022  # m: farther from a joint there is none of its lines
SKIN_GLOSS, NAIL_GLOSS = 0.06, 0.35


@dataclass(frozen=True)
class Skin:
    """A person's skin on a hand model.

    Attributes:
        values: float32 [V, 7] of the hand's vertices, for :func:`paint`: albedo, place at rest (m), share of a nail.
        forearm: float32 [W, 7], the same of the forearm's vertices; empty where the model has none.
        gloss: float32 [V].
    """

    model: HandModel
    values: np.ndarray
    forearm: np.ndarray
    gloss: np.ndarray
    creases: Creases

    def paint(self, values: np.ndarray) -> np.ndarray:
        """Albedo, float32 [N, 3], at points whose ``values`` [N, 7] are interpolated from the vertices'."""
        place = values[:, 3:6]
        pores = 1 + 0.10 * (noise(place + 3.0, 0.0011) - 0.5) + 0.10 * (noise(place + 5.0, 0.004) - 0.5)
        lines = self.creases(place)
        nail = np.clip((values[:, 6] - 0.35) / 0.3, 0, 1)
        on_nail = np.flatnonzero(nail)
        nail = nail[on_nail]
        rim = 4 * nail * (1 - nail)
        painted = np.empty((3, len(values)), np.float32)
        for channel, depth, pale in ((0, 0.30, 1.12), (1, 0.38, 1.02), (2, 0.40, 1.02)):
            albedo = values[:, channel]
            skin = albedo * pores * (1 - lines * np.float32(depth))
            bed = np.clip(albedo[on_nail] * np.float32(pale) + 0.05, 0, 1)
            skin[on_nail] = (skin[on_nail] * (1 - nail) + bed * nail) * (1 - 0.25 * rim)
            painted[channel] = np.clip(skin, 0.01, 1)
        return painted.T


def make_skin(model: HandModel, tone: float, warmth: float) -> Skin:
    """The skin of a person.

    Args:
        tone: 0 (dark) to 1 (light).
        warmth: -1 to 1, shifts the hue.
    """
    joints = model.J_regressor @ model.v_template
    palm = _palm(model, joints)
    hand = _vertex_values(model.v_template, model.f, palm, tone, warmth)
    nail = np.zeros(model.num_vertices)
    np.add.at(nail, model.f[model.nails].ravel(), 1.0)
    nail /= np.maximum(np.bincount(model.f.ravel(), minlength=model.num_vertices), 1)
    tips = model.v_template[model.tip_vertices]
    hand[:, :3] *= _knuckles(model.v_template, np.concatenate((joints[1:], tips)))
    values = np.concatenate((hand, nail[:, None]), 1).astype(np.float32)
    forearm = np.zeros((0, 7), np.float32)
    if model.forearm is not None:
        arm = _vertex_values(model.forearm.v_template, model.forearm.f, palm, tone, warmth)
        arm = np.concatenate((arm, np.zeros((len(arm), 1))), 1).astype(np.float32)
        arm[model.forearm.ring[1]] = values[model.forearm.ring[0]]
        forearm = arm
    return Skin(
        model=model,
        values=values,
        forearm=forearm,
        gloss=(SKIN_GLOSS + (NAIL_GLOSS - SKIN_GLOSS) * nail).astype(np.float32),
        creases=Creases.of(model),
    )


@dataclass(frozen=True)
class Creases:
    """Lines of the palm and of the fingers' joints, as distances in the rest pose."""

    centres: np.ndarray  # float32 [C, 3], m: joints that have creases
    along: np.ndarray  # float32 [C, 3]: their fingers' directions
    back: np.ndarray  # float32 [C, 3]: out of the finger's back
    palm: np.ndarray  # float32 [3], unit, out of the palm
    plane: np.ndarray  # float32 [2, 3]: two axes of the palm's plane
    start: np.ndarray  # float32 [3], m: where the map's cell (0, 0) lies
    palm_map: np.ndarray  # float32 [S, S]: depth of the palm's lines in cells of CELL along both axes

    @classmethod
    @cache
    def of(cls, model: HandModel) -> Creases:
        joints = model.J_regressor @ model.v_template
        palm = _palm(model, joints)
        frames = finger_frames(model)
        centres, along, back = [], [], []
        for i, finger in enumerate(FINGERS):
            numbers = MANO_FINGER_JOINTS[finger]
            first = joints[numbers[0]]
            web = first + 0.5 * (joints[numbers[1]] - first)  # where a finger leaves the palm
            for centre in ((web,) if finger != "thumb" else ()) + (joints[numbers[1]], joints[numbers[2]]):
                centres.append(centre)
                along.append(frames[i, 0])
                back.append(frames[i, 1])
        base = {finger: joints[MANO_FINGER_JOINTS[finger][0]] for finger in FINGERS}
        wrist = joints[0]
        across = base["little"] - base["index"]
        edge = base["little"] + 0.25 * across
        thumb_side = base["index"] - 0.12 * across
        heart = [
            edge + 0.10 * (wrist - edge),
            base["ring"] + 0.16 * (wrist - base["ring"]),
            base["middle"] + 0.05 * (wrist - base["middle"]),
        ]
        head = [
            thumb_side + 0.18 * (wrist - thumb_side),
            base["middle"] + 0.33 * (wrist - base["middle"]),
            edge + 0.45 * (wrist - edge),
        ]
        thenar = base["thumb"] + 0.62 * (base["middle"] - base["thumb"])
        life = [head[0], thenar, wrist + 0.30 * (thenar - wrist), wrist + 0.04 * (base["thumb"] - wrist)]
        x = across / np.linalg.norm(across)
        plane = np.stack((x, np.cross(palm, x)))
        start = wrist + 0.5 * (base["middle"] - wrist) - plane.sum(0) * SPAN / 2
        cells = (np.arange(round(SPAN / CELL)) * CELL)[:, None]
        grid = start @ plane.T + np.stack(np.broadcast_arrays(cells, cells.T), -1)  # [S, S, 2]
        distance = np.full(grid.shape[:2], np.inf)
        for path in (heart, head, life):
            for a, b in pairwise(_smooth_path(path) @ plane.T):
                ends = np.stack((np.minimum(a, b) - FADED, np.maximum(a, b) + FADED), 1) - grid[0, 0][:, None]
                part = tuple(slice(*row) for row in np.clip(ends / CELL, 0, len(grid)).astype(int))
                t = np.clip((grid[part] - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)[..., None]
                beside = np.linalg.norm(grid[part] - a - t * (b - a), axis=-1)
                distance[part] = np.minimum(distance[part], beside)
        palm_map = 0.8 * np.exp(-((distance / (1.3 * CREASE)) ** 2))
        return cls(*(np.array(value, np.float32) for value in (centres, along, back, palm, plane, start, palm_map)))

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """How deep a line is at places [N, 3] of the rest pose, 0 to 1: float32 [N]."""
        depth = np.zeros(len(places), np.float32)
        jitter = 0.0012 * (noise(places + 7.0, 0.005) - 0.5)
        rows = np.ascontiguousarray(places)
        for centre, along, back in zip(self.centres, self.along, self.back, strict=True):
            x, y, z = (places[:, axis] - centre[axis] for axis in range(3))
            near = np.flatnonzero(x * x + y * y + z * z < NEAR**2)
            offset = rows.take(near, 0) - centre
            s = offset @ along
            out = offset @ back
            beside = np.linalg.norm(offset - s[:, None] * along - out[:, None] * back, axis=1)
            reach = np.clip((FINGER_RADIUS - beside) / 0.004, 0, 1)
            s = s + jitter[near]
            crease = np.exp(-((s / CREASE) ** 2)) * np.clip(-out / 0.003, 0, 1)
            folds = np.clip(np.cos(2 * np.pi * s / WRINKLE) - 0.55, 0, 1) / 0.45
            folds = 0.55 * folds * np.exp(-((s / KNUCKLE) ** 2)) * np.clip(out / 0.004, 0, 1)
            depth[near] = np.maximum(depth[near], reach * np.maximum(crease, folds))
        from_start = rows - self.start
        below = np.flatnonzero(from_start @ self.palm > PALM_DEPTH)
        cell = (from_start[below] @ self.plane.T + jitter[below, None]) / CELL
        cell = np.clip(np.rint(cell), 0, len(self.palm_map) - 1).astype(np.int64)
        depth[below] = np.maximum(depth[below], self.palm_map[cell[:, 0], cell[:, 1]])
        return depth


def _vertex_values(vertices, faces, palm, tone: float, warmth: float) -> np.ndarray:
    """Albedo and place at rest, float64 [V, 6]."""
    normals = vertex_normals(vertices, faces)
    colour = DARK ** (1 - tone) * LIGHT**tone * (1 + warmth * np.array([0.06, 0.0, -0.06]))
    side = np.clip(normals @ palm, -1, 1)[:, None]
    albedo = colour * (1 + (0.22 - 0.12 * tone) * side)
    albedo = albedo * (1 + 0.16 * (noise(vertices + 1.0, 0.011)[:, None] - 0.5))
    return np.concatenate((np.clip(albedo, 0.01, 1), vertices), 1)


def _knuckles(vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Factor [V, 3]: skin over joints and fingertips is redder and darker."""
    distance = np.linalg.norm(vertices[:, None] - joints[None], axis=2).min(1)[:, None]
    return 1 - 0.22 * np.exp(-((distance / 0.008) ** 2)) * np.array([0.4, 1.0, 1.0])


def _palm(model: HandModel, joints: np.ndarray) -> np.ndarray:
    """Unit, out of the palm at rest."""
    first = {finger: joints[MANO_FINGER_JOINTS[finger][0]] for finger in FINGERS}
    normal = np.cross(first["index"] - joints[0], first["little"] - joints[0])
    normal = normal if model.side == "right" else -normal
    return normal / np.linalg.norm(normal)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals [V, 3], the faces' weighted by area."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    flat = faces.ravel()
    total = np.stack([np.bincount(flat, np.repeat(normal[:, i], 3), len(vertices)) for i in range(3)], 1)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def _smooth_path(points: list[np.ndarray], pieces: int = 6) -> np.ndarray:
    """Points [N, 3] of a smooth curve through the given ones (Catmull and Rom, 1974)."""
    extended = [2 * points[0] - points[1], *points, 2 * points[-1] - points[-2]]
    curve = []
    for p0, p1, p2, p3 in zip(extended, extended[1:], extended[2:], extended[3:], strict=False):
        for t in np.arange(pieces) / pieces:
            square, cube = 2 * p0 - 5 * p1 + 4 * p2 - p3, 3 * p1 - p0 - 3 * p2 + p3
            curve.append(0.5 * (2 * p1 + (p2 - p0) * t + square * t**2 + cube * t**3))
    return np.array([*curve, points[-1]])
