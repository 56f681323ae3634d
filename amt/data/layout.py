"""DexYCB's names and split rules: what the reader looks for and what the synthetic writer produces."""

from __future__ import annotations

from amt.data.errors import DataError

SUBJECTS = (
    "20200709-subject-01",
    "20200813-subject-02",
    "20200820-subject-03",
    "20200903-subject-04",
    "20200908-subject-05",
    "20200918-subject-06",
    "20200928-subject-07",
    "20201002-subject-08",
    "20201015-subject-09",
    "20201022-subject-10",
)

SERIALS = (
    "836212060125",
    "839512060362",
    "840412060917",
    "841412060263",
    "932122060857",
    "932122060861",
    "932122061900",
    "932122062010",
)

CLASS_NAMES = {
    1: "002_master_chef_can",
    2: "003_cracker_box",
    3: "004_sugar_box",
    4: "005_tomato_soup_can",
    5: "006_mustard_bottle",
    6: "007_tuna_fish_can",
    7: "008_pudding_box",
    8: "009_gelatin_box",
    9: "010_potted_meat_can",
    10: "011_banana",
    11: "019_pitcher_base",
    12: "021_bleach_cleanser",
    13: "024_bowl",
    14: "025_mug",
    15: "035_power_drill",
    16: "036_wood_block",
    17: "037_scissors",
    18: "040_large_marker",
    19: "051_large_clamp",
    20: "052_extra_large_clamp",
    21: "061_foam_brick",
}

# Class 19 is in YCB but is never grasped, nor on the table, in DexYCB.
NEVER_GRASPED = 19
GRASPED_CLASSES = tuple(c for c in CLASS_NAMES if c != NEVER_GRASPED)

HAND_SEGMENT = 255
FRAME_HEIGHT, FRAME_WIDTH = 480, 640
MOST_FRAMES = 1_000_000  # a sequence: names have six digits
FULL_SEQUENCES = 100  # a subject, in the recorded data set
SYNTHETIC_RECORD = "synthetic.json"


# Shapes of the arrays in a labels file; O objects are in the scene. All are floats.
LABEL_SHAPES = {
    "pose_y": ("O", 3, 4),
    "pose_m": (1, 51),
    "joint_3d": (1, 21, 3),
    "joint_2d": (1, 21, 2),
}

SPLITS = ("s0", "s1", "s2", "s3")
SUBSETS = ("train", "val", "test")
PROTOCOL_NAMES = ("T", "V", "R", "F", "X")  # see amt.data.protocols


def color_name(frame: int) -> str:
    return f"color_{frame:06d}.jpg"


def depth_name(frame: int) -> str:
    return f"aligned_depth_to_color_{frame:06d}.png"


def labels_name(frame: int) -> str:
    return f"labels_{frame:06d}.npz"


def in_subset(split: str, subset: str, subject: int, camera: int, sequence: int, grasped: int) -> bool:
    """Whether a sequence, seen by a camera, belongs to a subset of one of DexYCB's four splits.

    Args:
        split: "s0" (seen subjects), "s1" (unseen subjects), "s2" (unseen cameras) or "s3" (unseen objects).
        subset: "train", "val" or "test".
        subject, camera: indices into :data:`SUBJECTS` and :data:`SERIALS`.
        sequence: index of the sequence among its subject's, in sorted order.
        grasped: index into :data:`GRASPED_CLASSES` of the object in the hand; on the recorded set it is sequence // 5.

    Raises:
        DataError: for an unknown split or subset.
    """
    check_split(split, subset)
    if split == "s0":
        if sequence % 5 != 4:
            return subset == "train"
        return subset == ("val" if subject < 2 else "test")
    if split == "s1":
        return subset == ("val" if subject == 6 else "test" if subject in (7, 8) else "train")
    if split == "s2":
        return subset == ("val" if camera == 6 else "test" if camera == 7 else "train")
    return subset == ("val" if grasped in (3, 19) else "test" if grasped in (7, 11, 15) else "train")


def check_split(split: str, subset: str) -> None:
    """Raises DataError, naming the choices, unless ``split`` and ``subset`` are DexYCB's."""
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    if subset not in SUBSETS:
        raise DataError(f"subset must be one of {', '.join(SUBSETS)}; got {subset!r}")
