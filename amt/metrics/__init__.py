"""The field's figures, as small pure functions. Take them from here: ``from amt.metrics import procrustes_error_mm``.

Tensors in metres come in; numbers in millimetres (``_mm``), pixels (``_px``), degrees (``_deg``) or shares come out. All
functions compute in float64. A function gives one number a sample or a joint where that makes sense. Means are the caller's,
by :class:`Sums` where samples come in batches or from several ranks.

| file | what is in it |
| --- | --- |
| `joints.py` | MPJPE absolute, wrist-aligned, Procrustes; PCK, AUC; a missed hand (MPJPE-p); spread |
| `meshes.py` | F-scores; the errors of joints.py serve vertices as well |
| `objects.py` | ADD, ADD-S, OCE, MCE, MSSD, MSPD, VSD; rotation, with symmetries |
| `contact.py` | precision, recall, F1; touching or not; the best constant mask |
| `calibration.py` | reliability and ECE of probabilities; coverage of Laplace scales |
| `sequences.py` | acceleration error, lag |
| `detections.py` | boxes of hands in NumPy: overlap, AP, recall, false alarms |
| `sums.py` | sums in float64 that add up over batches and ranks |
"""

from amt.metrics.calibration import (
    Reliability,
    laplace_coverage,
    reliability,
)
from amt.metrics.contact import Counts, best_constant_mask, contact_counts, f1, touching
from amt.metrics.detections import average_precision, box_iou, false_alarms, matches, recall
from amt.metrics.joints import (
    AUC_THRESHOLDS_MM,
    absolute_error_mm,
    auc,
    pck,
    procrustes_aligned,
    procrustes_error_mm,
    spread_ratio,
    with_missed,
    wrist_aligned_error_mm,
)
from amt.metrics.meshes import f_score
from amt.metrics.objects import (
    add_mm,
    adds_mm,
    mce_mm,
    mspd_px,
    mssd_mm,
    oce_mm,
    rotation_error_deg,
    symmetry_rotations,
    vsd,
)
from amt.metrics.sequences import acceleration_error_mm, lag_frames
from amt.metrics.sums import Sums

__all__ = [
    "AUC_THRESHOLDS_MM",
    "Counts",
    "Reliability",
    "Sums",
    "absolute_error_mm",
    "acceleration_error_mm",
    "add_mm",
    "adds_mm",
    "auc",
    "average_precision",
    "best_constant_mask",
    "box_iou",
    "contact_counts",
    "f1",
    "f_score",
    "false_alarms",
    "lag_frames",
    "laplace_coverage",
    "matches",
    "mce_mm",
    "mspd_px",
    "mssd_mm",
    "oce_mm",
    "pck",
    "procrustes_aligned",
    "procrustes_error_mm",
    "recall",
    "reliability",
    "rotation_error_deg",
    "spread_ratio",
    "symmetry_rotations",
    "touching",
    "vsd",
    "with_missed",
    "wrist_aligned_error_mm",
]
