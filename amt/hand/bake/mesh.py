"""Cuts the arm's mesh into hand and forearm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """A part of a mesh: each of its vertices is a mean of two of the whole's."""

    ends: np.ndarray  # int64 [P, 2]
    share: np.ndarray  # float64 [P]: of the first end
    faces: np.ndarray  # int64 [F, 3]
    source: np.ndarray  # int64 [F]: the whole's face from which each comes
    ring: np.ndarray  # int64 [R]: vertices on the cut, in the same order in both parts

    def of(self, values: np.ndarray, axis: int = 0) -> np.ndarray:
        """Values of the whole's vertices (on ``axis``) at this part's."""
        values = np.moveaxis(values, axis, 0)
        share = self.share.reshape(-1, *[1] * (values.ndim - 1))
        return np.moveaxis(share * values[self.ends[:, 0]] + (1 - share) * values[self.ends[:, 1]], 0, axis)


def cut(height: np.ndarray, faces: np.ndarray) -> tuple[Part, Part]:
    """Both parts of a mesh, where ``height`` [V] is below and above 0. Edges that cross 0 get a vertex there."""
    sides = []
    crossings: dict[tuple[int, int], int] = {}
    for a, b in np.concatenate([faces[:, [i, (i + 1) % 3]] for i in range(3)]):
        if height[a] * height[b] < 0:
            crossings.setdefault((min(a, b), max(a, b)), len(crossings))
    edges = np.array(list(crossings), np.int64).reshape(-1, 2)
    share = height[edges[:, 1]] / (height[edges[:, 1]] - height[edges[:, 0]])
    for sign in (-1, 1):
        triangles, source = [], []
        for number, face in enumerate(faces):
            corners: list[tuple[str, int]] = []
            for i in range(3):
                a, b = face[i], face[(i + 1) % 3]
                if height[a] * sign > 0:
                    corners.append(("v", int(a)))
                if height[a] * height[b] < 0:
                    corners.append(("e", crossings[(min(a, b), max(a, b))]))
            for k in range(1, len(corners) - 1):
                triangles.append((corners[0], corners[k], corners[k + 1]))
                source.append(number)
        used = sorted({corner for triangle in triangles for corner in triangle}, key=lambda c: (c[0] == "e", c[1]))
        place = {corner: i for i, corner in enumerate(used)}
        ends = np.array([(n, n) if kind == "v" else edges[n] for kind, n in used])
        sides.append(
            Part(
                ends=ends,
                share=np.array([1.0 if kind == "v" else share[n] for kind, n in used]),
                faces=np.array([[place[corner] for corner in triangle] for triangle in triangles]),
                source=np.array(source),
                ring=np.array([place[("e", n)] for n in range(len(edges)) if ("e", n) in place]),
            )
        )
    return sides[0], sides[1]
