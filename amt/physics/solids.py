"""Closed meshes: what has an inside, and so a depth, a volume and a mass."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from amt.errors import UserError
from amt.physics.extra import package

WELD = 1e-6  # m: vertices that are nearer to each other are one
LARGEST = 2.0  # m from a mesh's middle to its farthest vertex: what is larger is in another unit


class MeshError(UserError, ValueError):
    """A mesh that nothing can be computed with."""


@dataclass(frozen=True, eq=False)
class Solid:
    """A closed mesh, counter-clockwise from outside. Its parts do not overlap, but for a hand that pierces itself."""

    vertices: np.ndarray  # float64 [V, 3], m
    faces: np.ndarray  # int64 [F, 3]

    @cached_property
    def manifold(self):
        """The same as manifold3d's Manifold, with an identity that its triangles keep through every operation."""
        return self._whole.as_original()

    @property
    def is_closed(self) -> bool:
        """Whether the triangles are a closed surface; the rest of this class needs that."""
        return self._whole is not None

    @cached_property
    def _whole(self):
        return _manifold(self.vertices, self.faces)

    @property
    def volume(self) -> float:
        """m³."""
        return float(self.manifold.volume())

    def moved(self, rotation: np.ndarray, translation: np.ndarray) -> Solid:
        """Every vertex v at rotation [3, 3] @ v + translation [3] (m)."""
        return Solid(self.vertices @ np.asarray(rotation, float).T + np.asarray(translation, float), self.faces)


def closed(vertices: np.ndarray, faces: np.ndarray) -> Solid | None:
    """The solid of a mesh, or None where the mesh is open or not a surface.

    Vertices at one place (texture seams) are joined. Closed pieces that overlap are united. A piece that lies inside out is a
    cavity where another piece is around it; a mesh that is inside out as a whole is turned round.

    Args:
        vertices: float [V, 3], m; faces: int [F, 3].

    Raises:
        MeshError: no triangle, a vertex that is not finite, or a mesh that is metres large.
    """
    vertices, faces = check_mesh(vertices, faces)
    for joined in (_welded(vertices, faces), (vertices, faces)):
        whole = _manifold(*joined)
        if whole is None or abs(whole.volume()) < 1e-12:
            continue
        if whole.volume() < 0:
            whole = _manifold(joined[0], joined[1][:, ::-1])
        manifold3d, pieces = package("manifold3d"), whole.decompose()
        if len(pieces) > 1:
            bodies = [piece for piece in pieces if piece.volume() > 0]
            cavities = [_reversed(piece) for piece in pieces if piece.volume() < 0]
            add = manifold3d.OpType.Add
            whole = manifold3d.Manifold.batch_boolean(bodies, add)
            whole = whole - manifold3d.Manifold.batch_boolean(cavities, add) if cavities else whole
        return of_manifold(whole)
    return None


def united_hulls(parts: list[np.ndarray]) -> Solid:
    """The union of the convex hulls of point sets [N, 3] (m)."""
    manifold3d = package("manifold3d")
    hulls = [manifold3d.Manifold.hull_points(np.asarray(part, np.float64)) for part in parts]
    return of_manifold(manifold3d.Manifold.batch_boolean(hulls, manifold3d.OpType.Add))


def of_manifold(manifold) -> Solid:
    """The solid of manifold3d's Manifold."""
    mesh = manifold.to_mesh64()
    return Solid(*_welded(np.array(mesh.vert_properties[:, :3]), np.array(mesh.tri_verts, np.int64), 0.0))


def check_mesh(vertices: np.ndarray, faces: np.ndarray, name: str = "mesh") -> tuple[np.ndarray, np.ndarray]:
    """The arrays as float64 [V, 3] and int64 [F, 3]. Raises MeshError, whose message begins with ``name``."""
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3 or not len(faces):
        raise MeshError(
            f"{name}: expected vertices [V, 3] (m) and triangles [F, 3], got shapes {list(vertices.shape)} and "
            f"{list(faces.shape)}"
        )
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise MeshError(
            f"{name}: a triangle names vertex {faces.max()}, and there are {len(vertices)}; give its own vertices"
        )
    if not np.isfinite(vertices).all():
        raise MeshError(f"{name}: expected finite vertices; repair the mesh, or leave this prediction out")
    reach = float(np.linalg.norm(vertices - vertices.mean(0), axis=1).max())
    if reach > LARGEST:
        raise MeshError(
            f"{name}: reaches {reach:.4g} m from its middle, more than {LARGEST:g} m; vertices are in metres: divide millimetres "
            "by 1000"
        )
    return vertices, faces


def digest_of(vertices: np.ndarray, faces: np.ndarray) -> str:
    """Sixteen hexadecimal digits that tell this mesh from any other, in float32."""
    found = hashlib.sha256(np.ascontiguousarray(vertices, np.float32).tobytes())
    found.update(np.ascontiguousarray(faces, np.int64).tobytes())
    return found.hexdigest()[:16]


def close_holes(faces: np.ndarray, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Triangles that close the holes of a mesh by fans around new vertices.

    Args:
        faces: int [F, 3]; count: vertices of the mesh. New vertices are numbered from there.

    Returns:
        The triangles, int [G, 3], and for each new vertex the border around it, whose mean is its place.
    """
    edges = {}
    for face in faces:
        for a, b in ((face[0], face[1]), (face[1], face[2]), (face[2], face[0])):
            if edges.pop((int(b), int(a)), None) is None:
                edges[int(a), int(b)] = True
    after: dict[int, list[int]] = {}
    for a, b in edges:
        after.setdefault(a, []).append(b)
    rings, added = [], []
    for ring in _loops(after):
        centre = count + len(rings)
        added += [(ring[(k + 1) % len(ring)], ring[k], centre) for k in range(len(ring))]
        rings.append(np.array(ring))
    return np.array(added, np.int64).reshape(-1, 3), rings


def _loops(after: dict[int, list[int]]) -> list[list[int]]:
    """The closed loops of a border without a vertex twice: holes may meet in a vertex. ``after``: where edges lead; emptied."""
    loops = []
    while after:
        way = [next(iter(after))]
        while way[-1] in after:
            place = after[way[-1]].pop()
            if not after[way[-1]]:
                del after[way[-1]]
            if place in way:
                first = way.index(place)
                loops.append(way[first:])
                way = way[:first]
            way.append(place)
        # what is left of the way is its beginning, or a border that does not close: no triangles help there
    return loops


def filled(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mesh with every hole closed by a fan around its middle."""
    vertices, faces = _welded(*check_mesh(vertices, faces))
    fan, rings = close_holes(faces, len(vertices))
    return np.concatenate([vertices, *(vertices[ring].mean(0)[None] for ring in rings)]), np.concatenate([faces, fan])


def _manifold(vertices: np.ndarray, faces: np.ndarray):
    """manifold3d's Manifold, or None where the triangles are no closed surface."""
    manifold3d = package("manifold3d")
    found = manifold3d.Manifold(
        manifold3d.Mesh64(np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.uint64))
    )
    return found if found.status() == manifold3d.Error.NoError and not found.is_empty() else None


def _reversed(manifold):
    mesh = manifold.to_mesh64()
    return _manifold(mesh.vert_properties[:, :3], mesh.tri_verts[:, ::-1])


def _welded(vertices: np.ndarray, faces: np.ndarray, within: float = WELD) -> tuple[np.ndarray, np.ndarray]:
    """The mesh without vertices that lie at the place of another one, or that no triangle has."""
    keys = np.round(vertices / within).astype(np.int64) if within else vertices
    _, first, number = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    faces = first[number.reshape(-1)][faces]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)
