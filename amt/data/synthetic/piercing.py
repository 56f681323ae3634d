"""Where a mesh pierces itself, by casting its edges as rays."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def piercing_depths(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """How deep edges reach behind triangles of the same mesh that they pierce, m: float64, one for each crossing.

    Edges count that share no corner with the triangle. The depth is that of the edge's deeper end below the triangle's plane,
    at least what the surfaces overlap.

    Args:
        vertices: float64 [V, 3], m; faces: int [F, 3], counter-clockwise from outside.
    """
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    edges = _edges(faces.tobytes(), faces.dtype.str)
    scene = EmbreeScene()
    TriangleMesh(scene=scene, vertices=vertices.astype(np.float32), indices=faces.astype(np.int32))
    start, length = vertices[edges[:, 0]], np.linalg.norm(vertices[edges[:, 1]] - vertices[edges[:, 0]], axis=1)
    along = (vertices[edges[:, 1]] - start) / length[:, None]
    gone, left, depths = np.zeros(len(edges)), np.arange(len(edges)), []
    while len(left):
        origins = start[left] + gone[left, None] * along[left]
        found = scene.run(origins.astype(np.float32), along[left].astype(np.float32), output=True)
        hit = (found["primID"] >= 0) & (gone[left] + found["tfar"] < length[left])
        left, triangles = left[hit], faces[found["primID"][hit]]
        gone[left] += found["tfar"][hit]
        apart = ~(triangles[:, :, None] == edges[left][:, None]).any((1, 2))
        a, b, c = (vertices[triangles[:, k]] for k in range(3))
        normal = np.cross(b - a, c - a)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        ends = [np.einsum("nc,nc->n", normal, vertices[edges[left][:, k]] - a) for k in range(2)]
        depths += list(-np.minimum(*ends)[apart])
        gone[left] += 1e-6
    return np.array(depths)


@lru_cache(maxsize=4)
def _edges(faces: bytes, dtype: str) -> np.ndarray:
    faces = np.frombuffer(faces, dtype).reshape(-1, 3)
    return np.unique(np.sort(np.concatenate([faces[:, [i, (i + 1) % 3]] for i in range(3)]), axis=1), axis=0)
