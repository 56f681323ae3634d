"""The 21-joint hand skeleton in DexYCB's order, and how it is taken from MANO's 16 joints and 5 fingertip vertices."""

from __future__ import annotations

SHIPPED_HAND = "amt"  # what configurations call AMT's own hand, where MANO's has a path

FINGERS = ("thumb", "index", "middle", "ring", "little")

JOINT_NAMES = (
    "wrist",
    "thumb_cmc",
    "thumb_mcp",
    "thumb_ip",
    "thumb_tip",
    "index_mcp",
    "index_pip",
    "index_dip",
    "index_tip",
    "middle_mcp",
    "middle_pip",
    "middle_dip",
    "middle_tip",
    "ring_mcp",
    "ring_pip",
    "ring_dip",
    "ring_tip",
    "little_mcp",
    "little_pip",
    "little_dip",
    "little_tip",
)

NUM_JOINTS = len(JOINT_NAMES)

# Joint 0 is its own start: -1. A finger's first joint hangs on the wrist, every other one on the joint before it.
PARENTS = (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)
BONES = tuple((parent, joint) for joint, parent in enumerate(PARENTS) if parent >= 0)
FINGER_JOINTS = {finger: tuple(range(1 + 4 * i, 5 + 4 * i)) for i, finger in enumerate(FINGERS)}
TIPS = (4, 8, 12, 16, 20)

# MANO's own 16 joints: wrist, then three each of index, middle, little, ring, thumb. The five tips are appended as
# 16-20, thumb first, before the reordering.
MANO_PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
MANO_FINGER_JOINTS = {
    "thumb": (13, 14, 15),
    "index": (1, 2, 3),
    "middle": (4, 5, 6),
    "ring": (10, 11, 12),
    "little": (7, 8, 9),
}
MANO_TO_SKELETON = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
