"""What the reader knows of the samples: where they come from, and how their objects are symmetrical."""

from __future__ import annotations

from torch import Tensor

from amt.data.layout import SERIALS, SUBJECTS
from amt.data.reader import Reader
from amt.evaluate.collect import Samples
from amt.metrics import symmetry_rotations


def places(reader: Reader, samples: Samples) -> dict[str, list[str]]:
    """Names by sample: "object", "camera", "subject", "sequence"; and "frame", its number in the sequence."""
    found: dict[str, list[str]] = {name: [] for name in ("object", "camera", "subject", "sequence", "frame")}
    names = reader.objects.names
    for index, kind in zip(samples.index.tolist(), samples.object_class.tolist()):
        info, camera, number = reader.locate(index)
        known = info.subject >= 0  # DexYCB's layout; HO-3D knows sequences alone
        found["object"].append(names.get(kind, "unknown"))
        found["camera"].append(SERIALS[camera] if known else info.folder.name)
        found["subject"].append(SUBJECTS[info.subject] if known else info.folder.name.rstrip("0123456789"))
        found["sequence"].append(info.folder.name)
        found["frame"].append(str(number))
    return found


def symmetries(reader: Reader) -> dict[int, Tensor]:
    """Rotations [S, 3, 3] after which an object looks the same, by class; classes whose symmetry nobody knows are left out."""
    known = {kind: reader.objects.symmetry(kind) for kind in reader.objects.names}
    return {kind: symmetry_rotations(symmetry) for kind, symmetry in known.items() if symmetry is not None}
