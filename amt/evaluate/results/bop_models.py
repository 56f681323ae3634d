"""The models that object poses are scored with: meshes, diameters and symmetries.

Diameters and symmetries are BOP's own where the set has ``bop/<split>/models_eval/models_info.json``, which DexYCB's toolkit
needs; else the mesh's, and those of the model's object.yml. BOP's models of YCB have their origin in the middle of their box:
its symmetries are moved there.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from amt import metrics
from amt.data.meshes import read_mesh
from amt.data.objects import mesh_file
from amt.data.reader import Reader
from amt.evaluate.results.checks import ResultError
from amt.metrics.objects import CONTINUOUS_STEP

MM = 1000.0  # in a metre
Model = tuple[np.ndarray, np.ndarray, float, torch.Tensor]


class Models:
    """The models of a set, read when first asked for."""

    def __init__(self, reader: Reader):
        self.objects = reader.objects
        self._info = _read_info(reader.root / "bop" / reader.split / "models_eval" / "models_info.json")
        self._known: dict[int, Model] = {}

    def __getitem__(self, obj_id: int) -> Model:
        """Vertices [V, 3] (m), faces, diameter (m), symmetries [S, 3, 3] or [S, 3, 4]. Raises ResultError: no mesh."""
        if obj_id not in self._known:
            folder = self.objects.folder / self.objects.names[obj_id]
            mesh = mesh_file(folder)
            if mesh is None:
                raise ResultError(f"{folder}: has no mesh; put the set's models folder in place")
            vertices, faces = read_mesh(mesh)
            vertices = vertices.astype(np.float64)
            info = self._info.get(str(obj_id))
            if info is None:
                found = diameter(vertices), metrics.symmetry_rotations(self.objects.symmetry(obj_id) or ())
            else:
                found = float(info["diameter"]) / MM, torch.from_numpy(motions(info, vertices))
            self._known[obj_id] = vertices, faces, *found
        return self._known[obj_id]


def diameter(vertices: np.ndarray) -> float:
    """The largest distance of two vertices [V, 3], in their unit."""
    vertices = np.asarray(vertices, np.float64)
    with suppress(QhullError):  # flat, or a line
        vertices = vertices[ConvexHull(vertices).vertices]
    return float(pdist(vertices).max())


def motions(info: dict, vertices: np.ndarray) -> np.ndarray:
    """float64 [S, 3, 4], m: BOP's symmetries of a model, in the frame of these vertices [V, 3] (m)."""
    found = [np.eye(4)] + [np.reshape(sym, (4, 4)) for sym in info.get("symmetries_discrete", ())]
    turns = []
    for symmetry in info.get("symmetries_continuous", ()):
        axis, offset = (np.asarray(symmetry[name], np.float64) for name in ("axis", "offset"))
        count = math.ceil(math.pi / CONTINUOUS_STEP)
        for angle in np.arange(count) * (2 * np.pi / count):
            turn = np.eye(4)
            turn[:3, :3] = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
            turn[:3, 3] = offset - turn[:3, :3] @ offset
            turns.append(turn)
    every = np.stack([turn @ one for one in found for turn in turns or [np.eye(4)]])[:, :3]
    centre = (vertices.min(0) + vertices.max(0)) / 2
    every[:, :, 3] = every[:, :, 3] / MM + centre - every[:, :, :3] @ centre
    return every


def _read_info(path: Path) -> dict[str, dict]:
    if not path.is_file():
        return {}
    try:
        info = json.loads(path.read_bytes())
        for model in info.values():
            float(model["diameter"])
            motions(model, np.zeros((1, 3)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ResultError(f"{path}: is no models_info.json of BOP ({error}); copy it anew, or remove it") from error
    return info
