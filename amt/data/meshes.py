"""The one reader of mesh files, and points on a mesh.

Wavefront files are read here: trimesh 5 takes no tabs, no comments behind numbers and no bytes that are not UTF-8 (unless one
more package is installed), and a vertex number of 0 for the last vertex. All other formats are read with trimesh.
"""

from __future__ import annotations

import codecs
import warnings
from pathlib import Path

import numpy as np

from amt.data.errors import DataError, FileError
from amt.data.files import read_ends, read_file

LONGEST = 1.0  # m: no object that a hand holds is longer; a mesh in millimetres is
LOOK = 7  # numbers that say how a point of a surface looks: normal, colour, whether the colour is known
LOOK_SAMPLES = 20_000  # points of a mesh whose normals and colours stand for those near them
MOST_BYTES = 1 << 30  # of a mesh's file
_REMEDY = "export a triangle mesh as .obj, .ply or .stl"


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float [V, 3] and triangles int [F, 3] of a mesh file.

    Raises:
        FileError: the file is missing, no triangle mesh, or names a vertex that is not finite or does not exist.
    """
    if path.suffix.lower() == ".obj":
        vertices, faces = read_obj(path)
    else:
        vertices, faces = _read_other(path)
    if not len(faces):
        raise FileError(path, "cannot be read (no triangles)", _REMEDY)
    wrong = np.flatnonzero(~np.isfinite(vertices).all(1))
    if len(wrong):
        values = ", ".join(f"{x:g}" for x in vertices[wrong[0]])
        raise FileError(path, f"vertex {wrong[0] + 1} is not finite ({values})", "repair the mesh")
    if not _areas(vertices, faces).sum() > 0:
        raise FileError(path, "its triangles have no area", "give the mesh of a surface")
    return vertices, faces


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float32 [V, 3] and triangles int64 [F, 3] of a Wavefront file; polygons are cut into fans.

    Spaces and tabs separate, ``#`` begins a comment, a backslash at a line's end continues it; other bytes than ASCII may
    stand in names and comments. Negative numbers count back from the last vertex so far.

    Raises:
        FileError: a line cannot be read, or a triangle names a vertex that is not there.
    """
    vertices, faces = [], []
    for number, words in _obj_lines(path):
        try:
            if words[0] == "v":
                x, y, z = (float(word) for word in words[1:4])
                vertices.append((x, y, z))
            elif words[0] == "f":
                corners = [_vertex(int(word.split("/")[0]), len(vertices)) for word in words[1:]]
                faces += [(corners[0], corners[k], corners[k + 1]) for k in range(1, len(corners) - 1)]
        except ValueError as error:
            raise FileError(path, f"line {number} cannot be read ({' '.join(words)[:60]})", _REMEDY) from error
    indices = np.array(faces, np.int64).reshape(-1, 3)
    if len(indices) and (indices.min() < 0 or indices.max() >= len(vertices)):
        missing = f"a triangle names a vertex that is not among the {len(vertices)}"
        raise FileError(path, f"cannot be read ({missing})", "copy or export it again")
    return np.array(vertices, np.float32).reshape(-1, 3), indices


def _vertex(number: int, so_far: int) -> int:
    """The index that a vertex number stands for; -1 for one that cannot be."""
    if number < 0:
        return max(so_far + number, -1)
    return number - 1


def _obj_lines(path: Path):
    """(number, words) of a Wavefront file's lines that hold anything."""
    try:
        data = read_file(path, MOST_BYTES)
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", "check the path") from error
    utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    # Latin-1 takes every byte, and what matters is ASCII.
    text = data.decode("utf-16", "replace") if utf_16 else data.removeprefix(codecs.BOM_UTF8).decode("latin-1")
    before = ""
    for number, line in enumerate(text.split("\n"), 1):
        line = before + line.partition("#")[0].rstrip()
        if line.endswith("\\"):
            before = line[:-1] + " "
            continue
        before, words = "", line.split()
        if words:
            yield number, words


def _read_other(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        import trimesh
    except ImportError as error:
        remedy = "pip install trimesh, or convert it to .obj"
        raise FileError(path, f"reading {path.suffix} takes trimesh, which is not installed", remedy) from error
    try:
        read_ends(path)  # trimesh would wait for a fifo's writer
        # process=False: trimesh would drop vertices that are not finite without a word.
        mesh = trimesh.load(path, force="mesh", process=False)
        return np.asarray(mesh.vertices, np.float64).reshape(-1, 3), np.asarray(mesh.faces, np.int64).reshape(-1, 3)
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror or error})", "check the path") from error
    except Exception as error:  # its readers raise whatever a damaged file leads to
        # A damaged .stl is taken for text, whose encoding trimesh asks a package for that need not be there.
        lacking = isinstance(error, ImportError) and path.suffix.lower() in (".stl", ".ply")
        why = "it is damaged" if lacking else " ".join(str(error).split())
        raise FileError(path, f"cannot be read ({why})", _REMEDY) from error


def check_extent(cloud: np.ndarray, name: str) -> None:
    """Raises DataError unless points [N, 3] are finite, at least one, and as large as what a hand holds (m)."""
    if cloud.ndim != 2 or cloud.shape[1] != 3 or not len(cloud):
        raise DataError(f"{name}: expected points [N, 3] in metres, got shape {list(cloud.shape)}")
    wrong = np.flatnonzero(~np.isfinite(cloud).all(1))
    if len(wrong):
        raise DataError(f"{name}: expected finite points, and {len(wrong)} are not (the first is point {wrong[0]})")
    extent = float(np.ptp(cloud, axis=0).max())
    if not 0 < extent <= LONGEST:
        raise DataError(f"{name}: is {extent:.4g} m long; at most {LONGEST:g} m was expected; rescale it to metres")


def box_mesh(extent: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float [8, 3] (m) and triangles int [12, 3] of a box about the origin, ``extent`` (m) along x, y and z."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.asarray(extent) / 2
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners, np.array([triangle for a, b, c, d in sides for triangle in ((a, b, c), (a, c, d))])


def sample_surface(vertices: np.ndarray, faces: np.ndarray, count: int) -> np.ndarray:
    """float32 [count, 3]: points spread over triangles by area, the same at every call."""
    return _sampled(vertices, faces, count)[0]


def surface_look(path: Path, points: np.ndarray) -> np.ndarray:
    """What a mesh file looks like at points [N, 3] (m) on it: float32 [N, 7].

    Outward unit normal, colour (sRGB, 0 to 1) and whether it is known (1 or 0): of the nearest of many points on its triangles.
    Normals point outward where triangles turn counterclockwise seen from outside, as files have them. Colours are those of a
    texture, of vertices or of materials, read with trimesh; without it, or where the file has none, they are unknown.

    Raises:
        FileError: as :func:`read_mesh`.
    """
    from scipy.spatial import cKDTree

    vertices, faces = read_mesh(path)
    found, face, weights = _sampled(vertices, faces, LOOK_SAMPLES)
    nearest = cKDTree(found).query(points)[1]
    face, weights = face[nearest], weights[nearest]
    a, b, c = (vertices[faces[face, k]].astype(np.float64) for k in range(3))
    normals = np.cross(b - a, c - a)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-30)
    colours = _colours(path, faces, face, weights)
    known = np.full((len(points), 1), float(colours is not None))
    return np.hstack((normals, np.zeros((len(points), 3)) if colours is None else colours, known)).astype(np.float32)


def _colours(path: Path, faces: np.ndarray, face: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    """sRGB float64 [N, 3] at points of triangles [N] with the weights [N, 3] of their corners; None: the file has no colours."""
    try:
        import trimesh

        with warnings.catch_warnings(action="ignore"):
            visual = (mesh := trimesh.load(path, force="mesh", process=False)).visual
        if len(mesh.faces) != len(faces):
            return None
        corners = np.asarray(mesh.faces)[face]
        if visual.kind == "texture" and visual.uv is not None:
            uv = (np.asarray(visual.uv, np.float64)[corners] * weights[..., None]).sum(1)
            return np.asarray(visual.material.to_color(uv), np.float64)[:, :3] / 255
        if visual.kind in ("vertex", "face"):
            colours = np.asarray(visual.vertex_colors, np.float64)[corners, :3]
            return (colours * weights[..., None]).sum(1) / 255
    except Exception:  # trimesh is not there, or what a damaged texture leads to: geometry is what counts
        return None
    return None


def _sampled(vertices: np.ndarray, faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points float32 [count, 3], their triangles int64 [count], and the weights of the corners float64 [count, 3]."""
    rng = np.random.default_rng(0)
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    area = _areas(vertices, faces)
    face = rng.choice(len(faces), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    points = (a[face] + u * (b - a)[face] + v * (c - a)[face]).astype(np.float32)
    return points, face, np.hstack((1 - u - v, u, v))


def _areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """float64 [F]: twice the triangles' areas."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1)
