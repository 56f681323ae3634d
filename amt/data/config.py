"""What can be chosen about the data. Imports neither PyTorch nor NumPy: a command line is checked before they load."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from amt.data.errors import DataError
from amt.data.layout import PROTOCOL_NAMES, SPLITS

LAYOUTS = {"dexycb": SPLITS, "ho3d": ("official",)}  # each with its splits


@dataclass(frozen=True)
class CropConfig:
    """How frames are cut."""

    size: int = 112  # px: side of the crops; follows model.crop_size
    box_scale: float = 1.5  # side of the box over the longest side of the tight box around the true joints
    margin: float = 1.4  # how much wider the cached cut is
    num_points: int = 256  # of the object's surface
    alpha: bool = False  # also cut the segmentation, which data.augment.background needs: a third more bytes

    def __post_init__(self):
        for name in ("size", "num_points"):
            if getattr(self, name) != int(getattr(self, name)):
                raise DataError(f"data.crop.{name} must be a whole number; got {getattr(self, name)}")
        if self.size < 16:
            raise DataError(f"data.crop.size must be at least 16 px; got {self.size}")
        if not 1 <= self.box_scale < float("inf"):
            raise DataError(f"data.crop.box_scale must be at least 1 (the box holds all joints); got {self.box_scale}")
        if not 1 <= self.margin <= 3:
            raise DataError(f"data.crop.margin must be 1-3; got {self.margin}")
        if self.num_points < 1:
            raise DataError(f"data.crop.num_points must be at least 1; got {self.num_points}")

    @property
    def cut_size(self) -> int:
        """px: side of the cached cut; its middle ``size`` px are the true box, so that a crop can be a part of it as it is."""
        return self.size + 2 * round(self.size * (self.margin - 1) / 2)

    def fields(self, num_vertices: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape a frame and dtype of every cached array; the hand has ``num_vertices`` vertices."""
        cut = self.cut_size
        return {
            "index": ((), "int64"),  # in the reader
            "run": ((), "int64"),  # equal for the frames of one sequence and camera
            "number": ((), "int64"),  # of the frame in its sequence
            "image": ((cut, cut, 3), "uint8"),
            **({"alpha": ((cut, cut), "uint8")} if self.alpha else {}),  # 255 on hand and object, 0 elsewhere
            "intrinsics": ((3, 3), "float32"),  # of the cut
            "box": ((3,), "float32"),  # px of the frame, without the margin
            "frame_intrinsics": ((3, 3), "float32"),
            "frame_size": ((2,), "float32"),
            "right": ((), "bool"),
            "object_class": ((), "int64"),
            "joints": ((21, 3), "float32"),
            "pose": ((48,), "float32"),
            "betas": ((10,), "float32"),
            "translation": ((3,), "float32"),
            "vertices": ((num_vertices, 3), "float32"),
            "object_rotation": ((3, 3), "float32"),
            "object_translation": ((3,), "float32"),
            "hand_contact": ((num_vertices,), "bool"),
            "object_contact": ((self.num_points,), "bool"),
            "hand_valid": ((), "bool"),
            "object_valid": ((), "bool"),
            "contact_valid": ((), "bool"),
            "joint_visible": ((21,), "bool"),
            "visibility_valid": ((), "bool"),
            "object_symmetric": ((), "bool"),
        }


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges of variation; a zero switches one off."""

    turn: float = 30.0  # degrees: in-plane rotation of the camera, either way; 180 for any
    zoom: float = 0.15  # log2-ish: side of the box times 2 ** uniform(-zoom, zoom)
    shift: float = 0.08  # of the box's side, along x and y
    loose: float = 0.0  # share of samples in a square as a locator errs: shift 0.3, zoom 0.6; asks for crop.margin 2.4
    brightness: float = 0.35  # gain 2 ** uniform(-b, b) on all channels
    contrast: float = 0.25
    gamma: float = 0.25
    tint: float = 0.12  # gain of each channel by itself
    hue: float = 20.0  # degrees about the grey axis
    blur: float = 0.25  # share of samples
    noise: float = 8.0  # grey levels, at most
    erase: float = 0.25  # share of samples that lose a rectangle
    grey: float = 0.05  # share of samples without colour
    perspective: float = 0.0  # degrees: rotation of the camera about its x and y axes, either way
    occlude: float = 0.0  # share of samples that lose a striped ellipse or rounded box, 10-50 % of the crop's side
    background: float = 0.0  # share of samples with another picture behind hand and object, where segmentation is known
    backgrounds: str | None = None  # folder of pictures for that, or photographs (scikit-image's); None: made ones

    def __post_init__(self):
        for name in ("loose", "blur", "erase", "grey", "occlude", "background"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"data.augment.{name} is a share, 0-1; got {getattr(self, name)}")
        for name in ("turn", "zoom", "shift", "brightness", "contrast", "gamma", "tint", "hue", "noise", "perspective"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise DataError(f"data.augment.{name} must be finite and not negative; got {getattr(self, name)}")
        if self.shift > 0.5:
            raise DataError(f"data.augment.shift is a part of the box, at most 0.5; got {self.shift}")
        if self.perspective > 30:
            raise DataError(f"data.augment.perspective must be at most 30 degrees; got {self.perspective}")


@dataclass(frozen=True)
class DataConfig:
    """Where frames come from and how they become batches."""

    root: str | None = None  # the set's folder; None: a synthetic set, rendered once into the cache folder
    layout: str = "dexycb"  # of the set's files: dexycb, or ho3d (version 3)
    split: str = (
        "s1"  # s0 (seen subjects), s1 (unseen subjects), s2 (unseen cameras), s3 (unseen objects); ho3d: official
    )
    protocol: str | None = (
        None  # T, V, R, F or X: only the frames that it scores; None: every frame with a labelled hand
    )
    mano: str | None = None  # folder of MANO's files, for sets that need them
    cache: str | None = None  # where crops go; None: the user's cache folder
    crop: CropConfig = field(default_factory=CropConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    limit: int | None = None  # only so many frames of each subset, spread evenly over it; None: all
    most_broken: float = 0.01  # share of the frames that training may lose because they cannot be read
    window: int = 1  # frames of one camera that are trained on together, varied in the same way; 1: single frames
    stride: int = 1  # frames from one of a window to the next
    on_device: float = (
        0.5  # share of a GPU's free memory that crops may take to lie there whole; else batches are copied
    )
    workers: int = 0  # processes that put batches together; 0: the training process itself
    render_sequences: int = 12  # of the synthetic set that stands in for ``root`` None
    render_frames: int = 3
    render_workers: int = 2

    def __post_init__(self):
        if self.layout not in LAYOUTS:
            raise DataError(f"data.layout must be one of {', '.join(LAYOUTS)}; got {self.layout!r}")
        splits = LAYOUTS[self.layout]
        if self.split not in splits:
            of = "" if self.layout == "dexycb" else f" with data.layout={self.layout}"
            raise DataError(f"data.split must be one of {', '.join(splits)}{of}; got {self.split!r}")
        if self.layout != "dexycb" and self.root is None:
            raise DataError(f"data.root must be given with data.layout={self.layout}: the set's folder")
        if self.protocol not in (None, *PROTOCOL_NAMES):
            raise DataError(f"data.protocol must be one of {', '.join(PROTOCOL_NAMES)}, or null; got {self.protocol!r}")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"data.limit must be at least 1; got {self.limit}")
        if not 0 <= self.most_broken <= 1:
            raise DataError(f"data.most_broken is a share, 0-1; got {self.most_broken}")
        if self.workers < 0:
            raise DataError(f"data.workers must not be negative; got {self.workers}")
        if self.augment.background and not self.crop.alpha:
            raise DataError("data.augment.background needs the segmentation in the crop cache: data.crop.alpha=true")
        if not 0 <= self.on_device <= 1:
            raise DataError(f"data.on_device is a share, 0-1; got {self.on_device}")
        for name in ("window", "stride", "render_sequences", "render_frames", "render_workers"):
            if getattr(self, name) < 1:
                raise DataError(f"data.{name} must be at least 1; got {getattr(self, name)}")

    def cache_folder(self) -> Path:
        return Path(self.cache).expanduser() if self.cache else default_cache_folder()

    def root_folder(self) -> Path:
        """The set's folder; renders the synthetic one first if no root is named."""
        if self.root is not None:
            return Path(self.root).expanduser()
        from amt.data.synthetic.write import SetConfig, write_set

        config = SetConfig(sequences=self.render_sequences, frames=self.render_frames)
        folder = self.cache_folder() / f"synthetic-{config.sequences}x{config.frames}"
        say_once(f"data.root is not given: the synthetic set {folder} serves; what is missing of it is rendered")
        return write_set(folder, config, self.render_workers)


@cache
def say_once(line: str) -> None:
    """Prints a line on stderr, once a process."""
    print(line, file=sys.stderr)


def default_cache_folder() -> Path:
    """$XDG_CACHE_HOME/amt, or ~/.cache/amt."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "amt" if base else Path.home() / ".cache" / "amt"
