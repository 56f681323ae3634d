"""How far the outputs of an export are from the checkpoint's own."""

from __future__ import annotations

import numpy as np

from amt.export.formats import ExportError
from amt.export.signature import IN_METRES

TOLERANCE_MM = 1e-3  # of float32 exports, whose arithmetic is the checkpoint's


def differences(expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> dict[str, float]:
    """Millimetres between two sets of outputs for the same crops.

    ``joints_mm`` and ``joints_max_mm``: mean and largest distance between the answers' joints; ``aligned_mm``: their mean with
    wrist on wrist; ``vertices_mm``: mean over the mesh; ``object_mm``: mean of the object's origin; ``largest_mm``: the largest
    difference of any coordinate of any output in metres; ``contact``: the largest difference of a probability of contact.

    Raises:
        ExportError: an output is missing or has another shape.
    """
    for name, value in expected.items():
        if name not in got or got[name].shape != value.shape:
            shape = list(got[name].shape) if name in got else "nothing"
            raise ExportError(f"{name}: the exported file gives {shape} where the checkpoint gives {list(value.shape)}")

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return 1000 * np.linalg.norm(a.astype(np.float64) - b, axis=-1)

    def from_wrist(outputs: dict[str, np.ndarray]) -> np.ndarray:
        return outputs["joints"].astype(np.float64) - outputs["joints"][:, :1]

    joints = distance(expected["joints"], got["joints"])
    largest = max(float(np.abs(expected[n].astype(np.float64) - got[n]).max()) for n in IN_METRES if n in expected)
    contact = [np.abs(_sigmoid(expected[n]) - _sigmoid(got[n])).max() for n in ("hand_contact", "object_contact")]
    return {
        "joints_mm": float(joints.mean()),
        "joints_max_mm": float(joints.max()),
        "aligned_mm": float(distance(from_wrist(expected), from_wrist(got)).mean()),
        "vertices_mm": float(distance(expected["vertices"], got["vertices"]).mean()),
        "object_mm": float(distance(expected["object_translation"], got["object_translation"]).mean()),
        "largest_mm": 1000 * largest,
        "contact": float(max(contact)),
    }


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))
