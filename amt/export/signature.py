"""What goes into an exported network and what comes out: names, shapes, units. Imports nothing heavy.

The network takes flat tensors in place of :class:`amt.hand.batch.Inputs`, of which it reads six fields, and gives every
tensor of :class:`amt.model.outputs.Prediction` under a name of its own.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One tensor. ``path`` is its place in ``Inputs`` or ``Prediction``."""

    name: str
    path: str
    dtype: str
    shape: tuple[str | int, ...]  # letters for what the model decides, B for the batch
    unit: str
    meaning: str


def _floats(name: str, path: str, shape: tuple[str | int, ...], unit: str, meaning: str) -> Entry:
    return Entry(name, path, "float32", ("B", *shape), unit, meaning)


def _scene(path: str, joints: str, vertices: str, others: str) -> tuple[Entry, ...]:
    """A scene's tensors; its joints, its mesh and its other tensors have names with these beginnings."""
    return (
        _floats(f"{joints}joints", f"{path}.joints", (21, 3), "m", f"the joints that the {path} parameters give"),
        _floats(f"{vertices}vertices", f"{path}.vertices", ("V", 3), "m", f"the mesh that the {path} parameters give"),
        _floats(f"{others}pose", f"{path}.pose", (16, 3, 3), "", "MANO's rotations, the first global"),
        _floats(f"{others}betas", f"{path}.betas", (10,), "", "MANO's shape"),
        _floats(
            f"{others}translation", f"{path}.translation", (3,), "m", "MANO's; the wrist is J0(betas) + translation"
        ),
        _floats(f"{others}object_rotation", f"{path}.object_rotation", (3, 3), "", "object to camera"),
        _floats(f"{others}object_translation", f"{path}.object_translation", (3,), "m", "of the object's origin"),
    )


LOOK = "object_look"  # goes into a network that searches the object's pose alone
INPUTS = (
    Entry("image", "image", "uint8", ("B", 3, "S", "S"), "grey levels", "the square crop around hand and object, RGB"),
    Entry("intrinsics", "intrinsics", "float32", ("B", 3, 3), "px", "K of the crop: cropping changes K"),
    Entry("right", "right", "bool", ("B",), "", "true for a right hand, false for a left one"),
    Entry("object_class", "object_class", "int64", ("B",), "", "1 to 21 as in YCB, 0 where the object is not known"),
    Entry(
        "object_points",
        "object_points",
        "float32",
        ("B", "P", 3),
        "m",
        "points of the object's surface in its own frame",
    ),
    Entry(
        "object_look",
        "object_look",
        "float32",
        ("B", "P", 7),
        "",
        "each point's outward unit normal, its sRGB colour (0 to 1) and 1 where that is known; zeros: unknown",
    ),
)
OUTPUTS = (
    _floats("joints", "refined.joints", (21, 3), "m", "the answer; wrist, then thumb to little finger, base to tip"),
    _floats("vertices", "refined.vertices", ("V", 3), "m", "the answer's mesh, which follows the joints"),
    *_scene("decoded", "decoded_", "decoded_", ""),
    _floats("hand_contact", "contact.hand", ("V",), "logit", "the vertex touches the object"),
    _floats("object_contact", "contact.object", ("P",), "logit", "the object point touches the hand"),
    _floats("joint_visible", "joint_visible", (21,), "logit", "nothing hides the joint"),
    _floats("joint_scale", "joint_scale", (21,), "m", "scale of a Laplace distribution, from the wrist"),
    _floats("class_logits", "object_class", (22,), "logit", "the object's class, read from the image alone"),
    _floats("unrefined_joints", "unrefined.joints", (21, 3), "m", "where the refinement starts"),
    _floats("unrefined_vertices", "unrefined.vertices", ("V", 3), "m", "the mesh there"),
    _floats("steps", "steps", ("R", 21, 3), "m", "the joints after each refinement step"),
    *_scene("coarse", "coarse_", "coarse_", "coarse_"),
    _floats(
        "keypoint_position", "keypoints.position", ("N", 2), "half crops", "from the crop's centre, x right, y down"
    ),
    _floats("keypoint_depth", "keypoints.depth", ("N",), "0.1 m", "behind the wrist"),
    _floats("keypoint_trust", "keypoints.trust", ("N",), "0 to 1", "weight in the geometric solvers"),
    _floats("keypoint_log_maps", "keypoints.log_maps", ("N", "G", "G"), "nat", "log probability of each cell"),
    _floats(
        "outline_reach", "outline.reach", (8,), "half crops", "how far the object reaches, directions 45 degrees apart"
    ),
    _floats("outline_scale", "outline.scale", (8,), "half crops", "scale of a Laplace distribution of its error"),
    _floats("poses_rotation", "poses.rotation", ("K", 3, 3), "", "of the object, every pose tried, to camera"),
    _floats("poses_translation", "poses.translation", ("K", 3), "m", "of the object, every pose tried"),
    _floats("poses_score", "poses.score", ("K",), "nat", "log probability among them, up to a constant"),
    _floats("hand_mean", "hand_latent.mean", ("L",), "", "of the hand's latent"),
    _floats("hand_log_variance", "hand_latent.log_variance", ("L",), "", "of the hand's latent"),
    _floats("object_mean", "object_latent.mean", ("L",), "", "of the object's latent"),
    _floats("object_log_variance", "object_latent.log_variance", ("L",), "", "of the object's latent"),
)
BY_PATH = {entry.path: entry for entry in OUTPUTS}
IN_METRES = tuple(entry.name for entry in OUTPUTS if entry.unit == "m" and entry.name != "joint_scale")
