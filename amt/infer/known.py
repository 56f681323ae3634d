"""What a data set says about one of its own pictures, in the words of inference: the object, the true box and the truth.

Each function reads only what it needs, and raises DataError where that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from amt.data.config import CropConfig
from amt.data.crops import joint_box
from amt.data.errors import DataError
from amt.data.layout import FRAME_HEIGHT, FRAME_WIDTH
from amt.data.lookup import SetFrame
from amt.draw.hand_object import HandObject
from amt.hand.camera import project
from amt.infer.objects import HeldObject


def held_object(frame: SetFrame, count: int) -> HeldObject | None:
    """The object in the hand, as ``count`` points; None where the set knows of none."""
    if not frame.class_id:
        return None
    return HeldObject(frame.class_id, frame.object_name, frame.object_points(count), frame.object_look(count))


def true_box(
    frame: SetFrame, size: tuple[int, int], intrinsics: np.ndarray, scale: float = CropConfig.box_scale
) -> np.ndarray | None:
    """float32 [3], px: the training's square around the true joints; None without a true hand.

    Args:
        size: (height, width) of the picture, px. In one that was resized the joints lie where K [3, 3] shows them.
    """
    labels = frame.labels
    if not labels.hand_valid:
        return None
    if tuple(size) == (FRAME_HEIGHT, FRAME_WIDTH):
        return joint_box(labels.joints_2d, scale)
    return joint_box(project(labels.joints, np.asarray(intrinsics, np.float32)).numpy(), scale)


def truth(
    frame: SetFrame, intrinsics: np.ndarray, count: int, tell: Callable[[DataError, str], None]
) -> HandObject | None:
    """The true hand and object before a camera K [3, 3] (px); None where the hand is not annotated.

    Args:
        count: object points.
        tell: takes the error of each part that cannot be read, and what is left out for it.
    """
    labels, shown = frame.labels, {}
    if not labels.hand_valid:
        return None

    def add(what: str, read: Callable[[], dict]) -> bool:
        try:
            shown.update(read())
        except DataError as error:
            tell(error, f"the truth is shown without {what}")
            return False
        return True

    meshed = add("the mesh", lambda: {"vertices": frame.vertices, "faces": frame.faces})
    if labels.object_valid and add("the object", lambda: _true_object(frame, count)) and meshed:
        add(
            "contact",
            lambda: {
                "hand_contact": frame.hand_contact.astype(np.float32),
                "object_contact": frame.object_contact(count).astype(np.float32),
            },
        )
    return HandObject(side=frame.side, intrinsics=np.asarray(intrinsics, np.float32), joints=labels.joints, **shown)


def _true_object(frame: SetFrame, count: int) -> dict:
    held = held_object(frame, count)
    return {
        "object_class": held.class_id,
        "object_points": held.points,
        "object_rotation": frame.labels.object_rotation,
        "object_translation": frame.labels.object_translation,
    }
