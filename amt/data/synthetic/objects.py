"""Twenty-one household shapes with YCB's names and sizes, built from primitives, and meshes that a user brings.

They stand in for the scanned models, which cannot be shipped: like enough in size and proportion that a hand closes on
them in the same way, and painted so that their orientation can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from amt.data.errors import DataError
from amt.data.layout import CLASS_NAMES, NEVER_GRASPED
from amt.data.meshes import read_mesh
from amt.data.object_card import UNITS, ObjectCard, card_of
from amt.data.synthetic.primitives import Part, arc, box, hull, lathe, tube

MESHES = (".obj", ".ply", ".stl")
MOST_FACES = 100_000
SMALLEST, LARGEST = 0.005, 0.6  # m: the longest side of what a hand holds


@dataclass(frozen=True, eq=False)
class Shape:
    """An object in its own frame: metres, origin at the centre of its bounding box. Compared by identity."""

    class_id: int
    name: str
    parts: tuple[Part, ...]  # watertight pieces, which may overlap
    card: ObjectCard | None = None  # of a user's mesh

    @property
    def extent(self) -> np.ndarray:
        """float64 [3], m: edge lengths of the bounding box."""
        vertices = np.concatenate([p.vertices for p in self.parts])
        return np.ptp(vertices, axis=0)

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """All parts in one: vertices float64 [V, 3] in metres, faces int64 [F, 3]."""
        starts = np.cumsum([0, *(len(p.vertices) for p in self.parts[:-1])])
        faces = [p.faces + start for p, start in zip(self.parts, starts, strict=True)]
        return np.concatenate([p.vertices for p in self.parts]), np.concatenate(faces)

    def inside(self, points: np.ndarray, except_part: int | None = None) -> np.ndarray:
        """bool [N]: whether points [N, 3] lie inside any part."""
        import trimesh

        found = np.zeros(len(points), bool)
        for k, part in enumerate(self.parts):
            if k == except_part:
                continue
            near = np.flatnonzero(~found & ((points > part.vertices.min(0)) & (points < part.vertices.max(0))).all(1))
            if len(near):
                found[near] = trimesh.Trimesh(part.vertices, part.faces, process=False).contains(points[near])
        return found

    def surface_points(self, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """About evenly spread points on the outer surface and their outward normals, both float64 [count, 3]."""
        return self.surface_samples(count, seed)[:2]

    def surface_samples(self, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """:meth:`surface_points`, and the corners of the triangles that they lie on, float64 [count, 3, 3]."""
        rng = np.random.default_rng([seed, self.class_id])
        drawn = []
        areas = [_face_areas(p) for p in self.parts]
        total = sum(a.sum() for a in areas)
        wanted = 4 * count  # parts overlap: what lies inside another part is dropped
        for k, (part, area) in enumerate(zip(self.parts, areas, strict=True)):
            number = int(np.ceil(wanted * area.sum() / total)) + 1
            face = rng.choice(len(area), number, p=area / area.sum())
            u, v = rng.random((2, number))
            flip = u + v > 1
            u[flip], v[flip] = 1 - u[flip], 1 - v[flip]
            if len(self.parts) > 1:
                outer = ~self.inside(_on_triangles(part.vertices[part.faces[face]], u, v), except_part=k)
                face, u, v = face[outer], u[outer], v[outer]
            drawn.append((part.faces[face], u, v))
        starts = np.cumsum([0, *(len(part.vertices) for part in self.parts[:-1])])
        keep = rng.permutation(sum(len(u) for _, u, _ in drawn))[:count]
        chosen = np.concatenate([faces + start for (faces, _, _), start in zip(drawn, starts, strict=True)])[keep]
        corners = np.concatenate([part.vertices for part in self.parts])[chosen]
        points = _on_triangles(corners, *(np.concatenate([draw[k] for draw in drawn])[keep] for k in (1, 2)))
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return points, normal / np.linalg.norm(normal, axis=1, keepdims=True), corners


def built_in(class_id: int) -> Shape:
    """The built-in shape of a YCB class, 1-21."""
    return _centred(class_id, CLASS_NAMES[class_id], _PARTS[class_id]())


def from_file(path: Path, class_id: int) -> Shape:
    """A user's mesh as the shape of a class, with what the YAML file beside it says.

    Raises:
        DataError: if a file cannot be read, the mesh is open (inside and outside must be told apart), has too many triangles, or
            is of a size that no hand holds: its unit is then probably another.
    """
    import trimesh

    path = Path(path)
    vertices, faces = read_mesh(path)
    card = card_of(path)
    if len(faces) > MOST_FACES:
        raise DataError(
            f"{path}: has {len(faces)} triangles, at most {MOST_FACES} are possible; simplify it (for example with "
            "trimesh's simplify_quadric_decimation)"
        )
    mesh = trimesh.Trimesh(np.asarray(vertices, float) * card.scale, faces, process=True)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    if not mesh.is_watertight:
        raise DataError(f"{path}: is not watertight; close its holes (for example with trimesh.repair.fill_holes)")
    size = mesh.extents.max()
    if not SMALLEST < size < LARGEST:
        fits = [unit for unit, metres in UNITS.items() if SMALLEST < size / card.scale * metres < LARGEST]
        remedy = (
            f"; if its unit is {' or '.join(fits)}, say so in {path.with_suffix('.yaml').name} (unit: {fits[0]})"
            if fits
            else ""
        )
        raise DataError(
            f"{path}: is {size:.4g} m long; a mesh that a hand can hold was expected{remedy}, or rescale it"
        )
    mesh.fix_normals()
    part = Part(np.asarray(mesh.vertices, float), np.asarray(mesh.faces, np.int64))
    return replace(_centred(class_id, _name(path, card), [part]), card=card)


def mesh_files(paths: tuple[str, ...]) -> list[Path]:
    """Mesh files, and those in folders, in the order of their names. Raises DataError for a folder without any."""
    found = []
    for path in map(Path, paths):
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in MESHES) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path}: holds no mesh ({', '.join('*' + suffix for suffix in MESHES)})")
        found += inside
    return found


def load_shapes(paths: tuple[str, ...] = ()) -> dict[int, Shape]:
    """The set's shapes by class: the built-in ones, or a user's meshes (numbered from 1, or by their YCB name)."""
    if not paths:
        return {class_id: _built_in_cached(class_id) for class_id in CLASS_NAMES}
    numbers = {name: class_id for class_id, name in CLASS_NAMES.items()}
    files = mesh_files(paths)
    if len(files) > len(CLASS_NAMES):
        raise DataError(f"at most {len(CLASS_NAMES)} objects are possible (the layout's class ids); got {len(files)}")
    names = [_name(file, card_of(file)) for file in files]
    for name in names:
        if names.count(name) > 1:
            same = ", ".join(str(file) for file, other in zip(files, names, strict=True) if other == name)
            raise DataError(f"{same}: have the same name {name!r}; give one another name in the YAML file beside it")
    taken = [numbers[name] for name in names if name in numbers]
    free = iter(c for c in CLASS_NAMES if c not in taken and c != NEVER_GRASPED)
    shapes: dict[int, Shape] = {}
    for file, name in zip(files, names, strict=True):
        class_id = numbers.get(name) or next(free, NEVER_GRASPED)
        shapes[class_id] = from_file(file, class_id)
    return shapes


def _name(path: Path, card: ObjectCard) -> str:
    if card.name is not None:
        return card.name
    in_ycb = path.stem == "textured_simple" or path.parent.name in CLASS_NAMES.values()
    return path.parent.name if in_ycb else path.stem


@cache
def _built_in_cached(class_id: int) -> Shape:
    return built_in(class_id)


def _centred(class_id: int, name: str, parts) -> Shape:
    vertices = np.concatenate([p.vertices for p in parts])
    centre = (vertices.min(0) + vertices.max(0)) / 2
    return Shape(class_id, name, tuple(p.moved(-centre) for p in parts))


def _on_triangles(corners: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """float64 [N, 3]: the points of triangles [N, 3, 3] that lie u and v of the way along the sides from the first corner."""
    a, b, c = corners.transpose(1, 0, 2)
    return a + u[:, None] * (b - a) + v[:, None] * (c - a)


def _face_areas(part: Part) -> np.ndarray:
    a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def _can(radius: float, height: float) -> list[Part]:
    """A tin: its rims stand 1.5 mm proud of the lids."""
    rim = 0.0015
    profile = [(0, rim), (radius - 0.004, rim), (radius - 0.003, 0), (radius, 0), (radius, height)]
    profile += [(radius - 0.003, height), (radius - 0.004, height - rim), (0, height - rim)]
    return [lathe(profile)]


def _oval(profile, depth: float) -> Part:
    """A lathe squeezed along y: bottles are not round."""
    return lathe(profile).scaled((1, depth, 1))


def _mustard_bottle() -> list[Part]:
    body = [
        (0, 0),
        (0.042, 0),
        (0.047, 0.006),
        (0.047, 0.105),
        (0.041, 0.128),
        (0.026, 0.146),
        (0.018, 0.152),
        (0, 0.152),
    ]
    cap = [(0, 0.150), (0.019, 0.150), (0.018, 0.170), (0.009, 0.174), (0.006, 0.192), (0, 0.192)]
    return [_oval(body, 0.61), lathe(cap)]


def _bleach_bottle() -> list[Part]:
    body = [
        (0, 0),
        (0.046, 0),
        (0.051, 0.006),
        (0.051, 0.135),
        (0.046, 0.165),
        (0.030, 0.200),
        (0.021, 0.214),
        (0, 0.214),
    ]
    cap = [(0, 0.21), (0.021, 0.21), (0.021, 0.246), (0.018, 0.25), (0, 0.25)]
    return [_oval(body, 0.65), lathe(cap)]


def _banana() -> list[Part]:
    path = arc(0.115, 205, 302, 22, "xy")
    t = np.linspace(0, 1, 22)
    radii = 0.0185 * np.clip(np.sin(np.pi * (0.05 + 0.92 * t)), 0, None) ** 0.45
    radii[-3:] = (0.0085, 0.007, 0.0065)  # the stalk
    return [tube(path, radii, segments=12)]


def _pitcher() -> list[Part]:
    body = [(0, 0), (0.050, 0), (0.054, 0.005), (0.062, 0.230), (0.064, 0.235), (0.060, 0.235)]
    body += [(0.058, 0.228), (0.050, 0.010), (0, 0.008)]
    handle = [
        (0.055, 0, 0.205),
        (0.085, 0, 0.205),
        (0.100, 0, 0.190),
        (0.101, 0, 0.130),
        (0.090, 0, 0.075),
        (0.052, 0, 0.055),
    ]
    return [lathe(body), tube(_smooth(handle, 20), 0.0095, segments=10, flatten=1.3)]


def _mug() -> list[Part]:
    body = [
        (0, 0),
        (0.036, 0),
        (0.041, 0.005),
        (0.0425, 0.078),
        (0.0415, 0.081),
        (0.0395, 0.081),
        (0.037, 0.008),
        (0, 0.006),
    ]
    handle = [
        (0.039, 0, 0.066),
        (0.056, 0, 0.067),
        (0.070, 0, 0.055),
        (0.070, 0, 0.030),
        (0.056, 0, 0.018),
        (0.039, 0, 0.018),
    ]
    return [lathe(body), tube(_smooth(handle, 18), 0.0055, segments=10, flatten=1.5)]


def _bowl() -> list[Part]:
    t = np.linspace(0, 1, 8)
    outside = np.stack([0.035 + 0.0445 * np.sin(t * np.pi / 2) ** 0.8, 0.004 + 0.050 * t**1.25], 1)
    inside = outside[::-1] - np.array([0.004, -0.0015])
    inside[0] = (0.0765, 0.0545)
    return [lathe([(0, 0), (0.030, 0), *outside, *inside[:-1], (0.030, 0.007), (0, 0.006)])]


def _power_drill() -> list[Part]:
    barrel = lathe([(0, 0), (0.020, 0), (0.027, 0.008), (0.028, 0.095), (0.022, 0.112), (0, 0.112)], 24).rotated(
        "y", 90
    )
    chuck = lathe([(0, 0), (0.019, 0), (0.019, 0.012), (0.012, 0.042), (0.004, 0.050), (0.003, 0.070), (0, 0.070)], 18)
    grip = tube([(0.018, 0, -0.01), (0.015, 0, -0.06), (0.006, 0, -0.125)], (0.021, 0.019, 0.020), flatten=0.82)
    battery = box(0.085, 0.058, 0.036, 0.006).moved((0.012, 0, -0.140))
    return [barrel, chuck.rotated("y", 90).moved((0.108, 0, 0)), grip, battery]


def _scissors() -> list[Part]:
    parts = []
    for side in (-1, 1):
        ring = arc(0.021, 0, 360, 25, "xy")[:-1] * (1.0, 1.35, 1)
        parts.append(_loop(ring + np.array([side * 0.026, -0.062, 0]), 0.0055))
        blade = np.array([(0.0, 0.0), (0.014, 0.004), (0.004, 0.104), (0.001, 0.104), (-0.008, 0.01)]) * (side, 1)
        z = (0.0, 0.0022) if side > 0 else (-0.0022, 0.0)
        parts.append(hull([(x, y, h) for x, y in blade for h in z]))
        parts.append(
            tube([(side * 0.016, -0.036, 0), (side * 0.006, -0.012, 0), (-side * 0.002, 0.008, 0)], 0.0055, 10)
        )
    return parts


def _marker() -> list[Part]:
    return [
        lathe(
            [
                (0, 0),
                (0.0075, 0),
                (0.0090, 0.002),
                (0.0090, 0.082),
                (0.0098, 0.083),
                (0.0098, 0.112),
                (0.0070, 0.121),
                (0, 0.121),
            ],
            20,
        )
    ]


def _clamp(scale: float) -> list[Part]:
    parts = []
    for side in (-1, 1):
        arm = [
            (side * 0.055, -0.095, 0),
            (side * 0.040, -0.040, 0),
            (side * 0.010, 0.000, 0),
            (side * 0.030, 0.050, 0),
            (side * 0.008, 0.088, 0),
        ]
        parts.append(tube(_smooth(arm, 20), (np.linspace(0.0105, 0.0075, 20)), 10, flatten=1.25))
        parts.append(box(0.012, 0.030, 0.028, 0.003).moved((side * 0.010, 0.088, 0)))
    parts.append(lathe([(0, -0.016), (0.014, -0.016), (0.014, 0.016), (0, 0.016)], 18))
    return [p.scaled((scale,) * 3) for p in parts]


def _smooth(points, count: int) -> np.ndarray:
    """Points on a cubic spline through the given ones."""
    from scipy.interpolate import CubicSpline

    points = np.asarray(points, float)
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return CubicSpline(lengths, points)(np.linspace(0, lengths[-1], count))


def _loop(path: np.ndarray, radius: float, segments: int = 10) -> Part:
    """A closed ring of tube about a planar closed path [N, 3] in the xy plane."""
    tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent, (0, 0, 1.0))
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    rings = path[:, None] + radius * (
        np.cos(angles)[:, None] * side[:, None] + np.sin(angles)[:, None] * np.array([0, 0, 1.0])
    )
    n = len(path)
    i, k = np.meshgrid(np.arange(n), np.arange(segments), indexing="ij")
    a, b = i * segments + k, i * segments + (k + 1) % segments
    c, d = (i + 1) % n * segments + k, (i + 1) % n * segments + (k + 1) % segments
    faces = np.concatenate([np.stack([a, c, d], -1).reshape(-1, 3), np.stack([a, d, b], -1).reshape(-1, 3)])
    part = Part(rings.reshape(-1, 3), faces)
    return part if _volume(part) > 0 else Part(part.vertices, faces[:, ::-1])


def _volume(part: Part) -> float:
    a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


_PARTS = {
    1: lambda: _can(0.0512, 0.140),
    2: lambda: [box(0.072, 0.164, 0.213, 0.001)],
    3: lambda: [box(0.049, 0.094, 0.176, 0.001)],
    4: lambda: _can(0.0339, 0.102),
    5: _mustard_bottle,
    6: lambda: _can(0.0428, 0.0335),
    7: lambda: [box(0.113, 0.089, 0.038, 0.001)],
    8: lambda: [box(0.089, 0.073, 0.030, 0.001)],
    9: lambda: [box(0.102, 0.060, 0.084, 0.012)],
    10: _banana,
    11: _pitcher,
    12: _bleach_bottle,
    13: _bowl,
    14: _mug,
    15: _power_drill,
    16: lambda: [box(0.090, 0.092, 0.206, 0.002)],
    17: _scissors,
    18: _marker,
    19: lambda: _clamp(0.75),
    20: lambda: _clamp(1.0),
    21: lambda: [box(0.051, 0.077, 0.052, 0.002)],
}
