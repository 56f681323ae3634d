"""A sample of a batch as what a picture shows: predicted and true."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from amt.draw.hand_object import HandObject
from amt.hand.batch import Batch


def predicted_scene(sample: Batch, prediction: Any, faces: np.ndarray, *, full: bool = False) -> HandObject:
    """What a model says of a batch of one.

    Args:
        prediction: of the model, on the CPU, float32.
        faces: int [F, 3]: triangles of a right hand.
        full: in the camera of the full picture rather than of the crop.
    """
    p = prediction
    scene = {"joints": p.joints, "vertices": p.vertices, "hand_contact": p.hand_contact.sigmoid()}
    if sample.targets.object_valid[0]:
        scene |= {"object_rotation": p.object_rotation, "object_translation": p.object_translation}
        scene |= {"object_contact": p.object_contact.sigmoid()}
    return _scene(sample, faces, scene, full)


def answered_scene(sample: Batch, answer: Any, faces: np.ndarray, *, full: bool = False) -> HandObject:
    """What an answer that is scored says of a batch of one: :class:`amt.evaluate.collect.Answer`, contact as booleans."""
    a = answer
    scene = {"joints": a.joints, "hand_contact": a.hand_contact.float()}
    if a.vertices is not None:
        scene["vertices"] = a.vertices
    if sample.targets.object_valid[0]:
        scene |= {"object_rotation": a.object_rotation, "object_translation": a.object_translation}
        if a.object_contact is not None:
            scene["object_contact"] = a.object_contact.float()
    return _scene(sample, faces, scene, full)


def true_scene(sample: Batch, faces: np.ndarray, *, full: bool = False) -> HandObject:
    """What the labels say of a batch of one; without the mesh where it is another hand's than ``faces`` belong to."""
    t = sample.targets
    scene = {"joints": t.joints}
    same_hand = t.vertices.shape[1] == faces.max() + 1
    if same_hand:
        scene["vertices"] = t.vertices
    if same_hand and t.contact_valid[0]:
        scene |= {"hand_contact": t.hand_contact.float(), "object_contact": t.object_contact.float()}
    if t.object_valid[0]:
        scene |= {"object_rotation": t.object_rotation, "object_translation": t.object_translation}
    return _scene(sample, faces, scene, full)


def _scene(sample: Batch, faces: np.ndarray, parts: dict[str, Tensor], full: bool) -> HandObject:
    inputs = sample.inputs
    if "object_rotation" in parts:
        parts["object_points"] = inputs.object_points
    right = bool(inputs.right[0])
    return HandObject(
        side="right" if right else "left",
        intrinsics=(inputs.frame_intrinsics if full else inputs.intrinsics)[0].numpy(),
        faces=faces if right else np.ascontiguousarray(faces[:, ::-1]),
        object_class=int(inputs.object_class[0]),
        **{name: value[0].numpy() for name, value in parts.items()},
    )
