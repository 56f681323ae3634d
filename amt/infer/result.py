"""What inference returns: plain NumPy arrays in metres and pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amt.draw.hand_object import HandObject


@dataclass(frozen=True, kw_only=True)
class Result(HandObject):
    """A prediction for one image.

    ``joints`` and ``vertices`` are the answer. The parameters ``pose``, ``betas`` and ``translation`` give ``mano_joints`` and
    ``mano_vertices``: MANO's hand before each joint was moved by itself and refined, some 5 mm beside the answer
    (:func:`amt.infer.fit.fitted` brings the parameters nearer). A left hand is predicted as a right one in a mirror, so its
    ``betas`` are those of the mirrored right model: in MANO's own left file they give a mesh 1 to 2 mm beside.
    """

    joints_2d: np.ndarray  # float32 [21, 2], px of the full image: where ``joints`` project
    pose: np.ndarray  # float32 [48], rad, axis-angle: global rotation, then MANO's 15 joints, hands_mean included
    betas: np.ndarray  # float32 [10]: MANO's shape
    translation: np.ndarray  # float32 [3], m: MANO's; the wrist is J0(betas) + translation
    mano_joints: np.ndarray  # float32 [21, 3], m: the joints of these parameters
    mano_vertices: np.ndarray  # float32 [V, 3], m: the mesh of these parameters
    mano_model: str  # what they belong to: "right", "mirrored right" (a left hand), or "left" (fitted to a left model)
    mano_fitted: bool = False  # whether they were fitted to ``joints``
    steps: np.ndarray  # float32 [S, 21, 3], m: the joints after each refinement step; the last one is `joints`
    coarse_joints: np.ndarray  # float32 [21, 3], m: the joints before fusion and refinement
    object_class_seen: int  # 0-21: the class that the image alone suggests, whatever was told; 0 stands for unknown
    box: np.ndarray  # float32 [3], px of the full image: centre x, centre y and side of the square looked at
    box_source: str  # "given", "found" or "tracked"
    box_settled: bool  # whether the search for the box came to rest; True where the box was given
    doubt: float  # nats: mean entropy of the joints' keypoint maps
    spread: float  # 0-1: the share of the crop that such a map covers, exp(doubt) over its cells; lower is surer
    visibility: np.ndarray | None = (
        None  # float32 [21], 0-1: probability that nothing hides the joint; None: not trained
    )
    sigma_mm: np.ndarray | None = (
        None  # float32 [21], mm: see amt.infer.uncertainty; a larger one is a less certain joint
    )
    intrinsics_assumed: float | None = None  # degrees over the diagonal that K was made from; None: K was given

    def record(self) -> dict:
        """The prediction as plain numbers for JSON; every key that has a unit ends in it.

        ``side``; ``intrinsics_px`` [3][3], ``intrinsics_assumed_deg`` (null where K was given), ``distortion`` (null, or
        ``model`` and ``coefficients``); ``box_px`` [cx, cy, side], ``box_source``, ``box_settled``; ``hand_found``,
        ``doubt_nats``, ``spread`` (0-1); ``joints_m`` [21][3]; ``joints_px`` [21][2]; ``visibility`` [21] (0-1) and
        ``sigma_mm`` [21]; ``mano_pose_rad`` [48], ``mano_betas`` [10] and ``mano_translation_m`` [3], which give
        ``mano_joints_m`` [21][3] with ``mano_model``; ``mano_fitted``; ``hand_contact`` [V] (0-1); ``object_class_seen``
        (0-21); ``object``: null, or ``class_id`` (0: unknown), ``rotation`` [3][3], ``translation_m`` [3], ``contact`` [P]
        (0-1).

        Where no hand was found, all from ``joints_m`` on is null.
        """
        seen = {
            "side": self.side,
            "intrinsics_px": _numbers(self.intrinsics, 4),
            "intrinsics_assumed_deg": self.intrinsics_assumed,
            "distortion": None if self.lens is None else self.lens.record(),
            "box_px": _numbers(self.box, 2),
            "box_source": self.box_source,
            "box_settled": self.box_settled,
            "hand_found": self.hand_found,
            "doubt_nats": _numbers(self.doubt, 4),
            "spread": _numbers(self.spread, 5),
        }
        hand = self._hand_record()
        return seen | (hand if self.hand_found else dict.fromkeys(hand))

    def _hand_record(self) -> dict:
        held = None
        if self.has_object:
            held = {
                "class_id": int(self.object_class),
                "rotation": _numbers(self.object_rotation, 6),
                "translation_m": _numbers(self.object_translation, 6),
                "contact": None if self.object_contact is None else _numbers(self.object_contact, 3),
            }
        return {
            "joints_m": _numbers(self.joints, 6),
            "joints_px": _numbers(self.joints_2d, 3),
            "visibility": None if self.visibility is None else _numbers(self.visibility, 3),
            "sigma_mm": None if self.sigma_mm is None else _numbers(self.sigma_mm, 2),
            "mano_pose_rad": _numbers(self.pose, 6),
            "mano_betas": _numbers(self.betas, 6),
            "mano_translation_m": _numbers(self.translation, 6),
            "mano_joints_m": _numbers(self.mano_joints, 6),
            "mano_model": self.mano_model,
            "mano_fitted": self.mano_fitted,
            "hand_contact": None if self.hand_contact is None else _numbers(self.hand_contact, 3),
            "object_class_seen": self.object_class_seen,
            "object": held,
        }


def _numbers(array: np.ndarray | float, digits: int) -> list | float | None:
    """Nested lists, rounded in float64; a number that is not finite becomes None, which JSON can hold."""
    rounded = np.round(np.asarray(array, np.float64), digits)
    return np.where(np.isfinite(rounded), rounded.astype(object), None).tolist()
