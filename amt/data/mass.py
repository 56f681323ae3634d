"""What an object weighs: its card's mass, else the one that YCB publishes, else its volume times a usual density."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from amt.data.errors import DataError
from amt.data.layout import CLASS_NAMES
from amt.data.meshes import read_mesh
from amt.data.object_card import CARD, ObjectCard, card_of, read_card
from amt.data.objects import mesh_file

DENSITY = 500.0  # kg/m3 of a household object whose mass nobody says: between a full carton's and an empty one's
OPEN = 1e-3  # share of the area by which a mesh may fail to close

# kg, by class id. Calli, Walsman, Singh, Srinivasa, Abbeel, Dollar, "Benchmarking in manipulation research: the YCB object and
# model set and benchmarking protocols" (2015), table of the objects.
YCB_MASSES = {
    1: 0.414,
    2: 0.411,
    3: 0.514,
    4: 0.349,
    5: 0.603,
    6: 0.171,
    7: 0.187,
    8: 0.097,
    9: 0.370,
    10: 0.066,
    11: 0.178,
    12: 1.131,
    13: 0.147,
    14: 0.118,
    15: 0.895,
    16: 0.729,
    17: 0.082,
    18: 0.0158,
    19: 0.125,
    20: 0.202,
    21: 0.028,
}
_BY_NAME = {CLASS_NAMES[class_id]: mass for class_id, mass in YCB_MASSES.items()}


def object_mass(model: str | Path) -> float:
    """The mass of an object, kg.

    Args:
        model: a mesh file, with the YAML file beside it that may say its mass and unit; or the folder of a set's model, as
            ``DATA/models/025_mug``, whose object.yml may say the mass.

    Without a known mass it is :data:`DENSITY` times the volume of the mesh, or of its convex hull where the mesh is open.

    Raises:
        FileError, DataError: the mesh or the card cannot be read, or a folder holds no mesh.
    """
    model = Path(model)
    folder = model if model.is_dir() else model.parent
    mesh = mesh_file(model) if model.is_dir() else model
    if (folder / CARD).is_file():
        card = read_card(folder / CARD)
    else:
        card = card_of(mesh) if mesh is not None else ObjectCard()
    if card.mass is not None:
        return card.mass
    for name in (card.name, folder.name, model.stem):
        if name in _BY_NAME:
            return _BY_NAME[name]
    if mesh is None:
        raise DataError(f"{model}: holds no mesh to weigh; put one there, or a mass in {CARD}")
    vertices, faces = read_mesh(mesh)
    volume = _volume(np.asarray(vertices, np.float64) * card.scale, faces)
    if not volume > 0:
        raise DataError(f"{mesh}: is flat, so that it has no volume; say its mass in the YAML file beside it")
    return DENSITY * volume


def _volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """m3; of the convex hull where the mesh is open; 0 where it is flat."""
    a, b, c = (vertices[faces[:, k]] - vertices.mean(0) for k in range(3))
    areas = np.cross(b - a, c - a) / 2
    closed = np.linalg.norm(areas.sum(0)) < OPEN * np.linalg.norm(areas, axis=1).sum()
    volume = abs(float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum())) / 6
    if closed and volume > 0:
        return volume
    from scipy.spatial import ConvexHull, QhullError

    try:
        return float(ConvexHull(vertices).volume)
    except QhullError:
        return 0.0
