"""What a data set says about one of its own images: K, side, object, the true box, and the truth to draw beside."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from amt.data.crops import CropConfig, joint_box
from amt.data.dexycb import DexYCB, Frame
from amt.data.layout import SERIALS, SUBJECTS, SUBSETS, DataError, color_name
from amt.hand.contact import contact_labels
from amt.infer.objects import HeldObject
from amt.infer.result import HandObject


@dataclass(frozen=True)
class KnownFrame:
    """One image of a set in DexYCB's layout."""

    intrinsics: np.ndarray  # float32 [3, 3], px
    side: str
    held: HeldObject
    box: (
        np.ndarray | None
    )  # float32 [3], px: the training's rule on the true joints; None where the hand is not annotated
    truth: HandObject | None  # None where the hand is not annotated


class KnownSets:
    """Looks images up in the sets that they lie in; each set is opened once.

    Args:
        num_points: object points, as the model takes them.
        mano: folder with MANO_RIGHT.pkl and MANO_LEFT.pkl, which a recorded set needs.
    """

    def __init__(self, num_points: int, mano: str | Path | None = None):
        self.num_points, self.mano = num_points, mano
        self._readers: dict[tuple[Path, str], DexYCB | None] = {}

    def find(self, path: str | Path) -> KnownFrame | None:
        """What the set knows of an image file; None for a file that lies in no set.

        Raises:
            DataError: it lies in a set that cannot be read, or its labels are missing or broken.
        """
        path = Path(path).absolute()
        if not in_a_set(path):
            return None
        root = path.parents[3]
        for subset in SUBSETS:
            reader = self._reader(root, subset)
            index = None if reader is None else _index(reader, path)
            if index is not None:
                return self._describe(reader, reader[index])
        return None

    def _reader(self, root: Path, subset: str) -> DexYCB | None:
        """s0's three subsets together hold every frame; in a small set one of them may be empty, which is None."""
        if (root, subset) not in self._readers:
            try:
                self._readers[root, subset] = DexYCB(root, "s0", subset, self.mano)
            except DataError as error:
                if "holds no frame of its" not in str(error):
                    raise
                self._readers[root, subset] = None
        return self._readers[root, subset]

    def _describe(self, reader: DexYCB, frame: Frame) -> KnownFrame:
        sequence = frame.sequence
        points = reader.objects.points(sequence.class_id, self.num_points)
        held = HeldObject(sequence.class_id, reader.objects.names[sequence.class_id], points)
        if not frame.hand_valid:
            return KnownFrame(frame.intrinsics, sequence.side, held, None, None)
        box = joint_box(frame.joints_2d, CropConfig().box_scale)
        return KnownFrame(frame.intrinsics, sequence.side, held, box, self._truth(reader, frame, held))

    def _truth(self, reader: DexYCB, frame: Frame, held: HeldObject) -> HandObject:
        layer = reader.layers[frame.sequence.side]
        with torch.no_grad():
            pose, betas, place = (torch.from_numpy(a)[None] for a in (frame.pose, frame.betas, frame.translation))
            vertices = layer(pose, betas, place).vertices[0].numpy()
        shown = {}
        if frame.object_valid:
            cloud = reader.objects.cloud(held.class_id)
            contact = reader.contact(frame)
            if contact is None:
                posed = torch.from_numpy(cloud @ frame.object_rotation.T + frame.object_translation)
                contact = [labels.numpy() for labels in contact_labels(torch.from_numpy(vertices), posed)]
            shown = {
                "object_points": held.points,
                "object_rotation": frame.object_rotation,
                "object_translation": frame.object_translation,
                "hand_contact": contact[0].astype(np.float32),
                "object_contact": contact[1][reader.objects.choice(held.class_id, self.num_points)].astype(np.float32),
            }
        return HandObject(
            side=frame.sequence.side,
            intrinsics=frame.intrinsics,
            joints=frame.joints,
            vertices=vertices,
            faces=layer.faces.numpy(),
            object_class=held.class_id,
            **shown,
        )


def in_a_set(path: Path) -> bool:
    """Whether an image's place is root/subject/sequence/camera/color_NNNNNN.jpg beside a calibration folder."""
    parents = path.parents
    return (
        len(parents) > 4
        and parents[0].name in SERIALS
        and parents[2].name in SUBJECTS
        and (parents[3] / "calibration").is_dir()
        and path.name.startswith("color_")
    )


def _index(reader: DexYCB, path: Path) -> int | None:
    """The image's index in a reader, found by bisection: the index runs subject, sequence, camera, frame."""
    subject, camera = SUBJECTS.index(path.parents[2].name), SERIALS.index(path.parents[0].name)
    sequence = [s for s in reader.sequences if s.subject == subject and s.folder.name == path.parents[1].name]
    digits = path.stem.removeprefix("color_")
    if not sequence or not digits.isdecimal() or color_name(int(digits)) != path.name:
        return None
    wanted = (subject, sequence[0].number, camera, int(digits))

    def key(index: int) -> tuple[int, int, int, int]:
        info, camera, number = reader.locate(index)
        return info.subject, info.number, camera, number

    found = bisect_left(range(len(reader)), wanted, key=key)
    return found if found < len(reader) and key(found) == wanted else None
