"""What a data set says about one of its own images: K, side, object, the true box, and the truth to draw beside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amt.data.crops import CropConfig, joint_box
from amt.data.lookup import Lookup, SetFrame
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
    """Looks images up in the sets that they lie in.

    Args:
        num_points: object points, as the model takes them.
        mano: folder with MANO_RIGHT.pkl and MANO_LEFT.pkl, which a recorded set needs.
    """

    def __init__(self, num_points: int, mano: str | Path | None = None):
        self.num_points, self.lookup = num_points, Lookup(mano)

    def find(self, path: str | Path) -> KnownFrame | None:
        """What the set knows of an image file; None for a file that lies in no set.

        Raises:
            DataError: it lies in a set that cannot be read, or its labels are missing or broken.
        """
        frame = self.lookup.frame_of(path)
        if frame is None:
            return None
        held = HeldObject(frame.class_id, frame.object_name, frame.object_points(self.num_points))
        labels = frame.labels
        if not labels.hand_valid:
            return KnownFrame(frame.intrinsics(), frame.side, held, None, None)
        box = joint_box(labels.joints_2d, CropConfig().box_scale)
        return KnownFrame(frame.intrinsics(), frame.side, held, box, self._truth(frame, held))

    def _truth(self, frame: SetFrame, held: HeldObject) -> HandObject:
        labels, shown = frame.labels, {}
        if labels.object_valid:
            shown = {
                "object_points": held.points,
                "object_rotation": labels.object_rotation,
                "object_translation": labels.object_translation,
                "hand_contact": frame.hand_contact.astype(np.float32),
                "object_contact": frame.object_contact(self.num_points).astype(np.float32),
            }
        return HandObject(
            side=frame.side,
            intrinsics=frame.intrinsics(),
            joints=labels.joints,
            vertices=frame.vertices,
            faces=frame.faces,
            object_class=held.class_id,
            **shown,
        )
