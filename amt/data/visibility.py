"""Which joints a camera sees: as the labels say, else from a frame's segmentation and depth."""

from __future__ import annotations

import numpy as np

from amt.data.errors import BrokenFrame
from amt.data.layout import HAND_SEGMENT
from amt.data.set_folder import Frame
from amt.hand.skeleton import NUM_JOINTS, TIPS

# m: how far a joint may lie behind the surface that is seen at its pixel and still be that surface's own joint. In a synthetic
# set these distances have a gap there: a finger's joint lies 6 to 16 mm under its skin, one of the palm or of the thumb's base 9
# to 24 mm, the wrist 18 to 34 mm. Another finger in front adds 15 mm and more.
FINGER, PALM, WRIST = 0.018, 0.025, 0.035
FLESH = np.full(NUM_JOINTS, FINGER)
FLESH[[2, *(tip - 3 for tip in TIPS)]] = PALM  # the fingers' bases, and the thumb's next joint
FLESH[0] = WRIST


def joint_visibility(frame: Frame) -> tuple[np.ndarray, bool]:
    """Which of a frame's joints are visible, bool [21], and whether its pictures can tell.

    A rendered set's labels say it (amt.data.synthetic.visible). Else a joint is visible where the segmentation at its pixel is
    the hand and the surface there lies at most :data:`FINGER`, :data:`PALM` or :data:`WRIST` in front of it: segmentation
    alone calls joints behind the hand itself visible, 40 % of those on the hand in a synthetic set. Where the depth sensor
    saw nothing (0), the segmentation decides. A joint outside the picture is not visible. Frames without a hand, a
    segmentation or a depth picture cannot tell.
    """
    nothing = np.zeros(NUM_JOINTS, bool)
    if not frame.hand_valid:
        return nothing, False
    known = frame.joint_visible()
    return (known, True) if known is not None else seen_joints(frame)


def seen_joints(frame: Frame) -> tuple[np.ndarray, bool]:
    """As :func:`joint_visibility`, from the pictures alone."""
    nothing = np.zeros(NUM_JOINTS, bool)
    try:
        segment, depth = frame.segment(), frame.depth()
    except BrokenFrame:
        return nothing, False
    if segment.shape != depth.shape:
        return nothing, False
    height, width = segment.shape
    with np.errstate(invalid="ignore"):
        x, y = np.clip(np.rint(frame.joints_2d), -1, 1e6).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = np.where(inside, x, 0), np.where(inside, y, 0)
    seen = depth[y, x]
    near = (seen == 0) | (frame.joints[:, 2] - seen <= FLESH)
    return inside & near & (segment[y, x] == HAND_SEGMENT), True
