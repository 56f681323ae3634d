"""From a picture's path to the frame of the set that it lies in.

Only the picture's own files are read, each part when it is asked for: a calibration file that is missing, MANO files that
are not at hand or another sequence's broken meta.yml make one part raise DataError, and leave the others usable.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from amt.data.ho3d import PARTS, Ho3dFolder, camera_of, labels_of, meta_path, read_meta, with_object
from amt.data.layout import SERIALS, SUBJECTS, color_name
from amt.data.sequences import SequenceInfo, read_sequence
from amt.data.set_folder import Frame, Labels, SetFolder, check_size


class SetFrame:
    """One picture of a set. Every property and method raises DataError on its own where its part cannot be read.

    Attributes:
        path: the picture's file.
        set: the set's folder.
        subject, camera: indices into SUBJECTS and SERIALS; number: the frame in its sequence.
    """

    def __init__(self, path: Path, files: SetFolder, subject: int, camera: int, number: int):
        self.path, self.set, self.subject, self.camera, self.number = path, files, subject, camera, number

    @property
    def root(self) -> Path:
        """The set's folder."""
        return self.set.root

    def intrinsics(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """float32 [3, 3], px: K of the camera.

        Args:
            size: (height, width) of the picture; another size than the calibration's is an error.
        """
        if size is not None:
            check_size(size, self.path, "take the original picture, or give the K of this one")
        return self.set.intrinsics(self.camera)

    @property
    def distortion(self) -> tuple[float, ...]:
        """k1, k2, p1, p2, k3 of the camera's lens; () for a pinhole camera."""
        return self.set.distortion(self.camera)

    @cached_property
    def sequence(self) -> SequenceInfo:
        """The picture's own meta.yml."""
        return read_sequence(self.path.parents[1], self.subject)

    @property
    def side(self) -> str:
        """ "right" or "left"."""
        return self.sequence.side

    @property
    def class_id(self) -> int:
        """1-21: the object in the hand."""
        return self.sequence.class_id

    @property
    def object_name(self) -> str:
        """The name of the object in the hand; "" where there is none, or its class is not known."""
        return self.set.objects.names.get(self.class_id, "")

    def object_points(self, count: int) -> np.ndarray:
        """float32 [count, 3], m: evenly spread points on the object in the hand, in its own frame."""
        return self.set.objects.points(self.class_id, count)

    def object_look(self, count: int) -> np.ndarray:
        """float32 [count, 7]: how each of :meth:`object_points` looks, see :class:`amt.hand.batch.Inputs`."""
        return self.set.objects.look(self.class_id, count)

    def object_contact(self, count: int) -> np.ndarray:
        """bool [count]: which of :meth:`object_points` the hand touches."""
        return self._contacts[1][self.set.objects.choice(self.class_id, count)]

    @cached_property
    def labels(self) -> Labels:
        """Joints and object poses; needs no hand model."""
        return self.set.labels(self.sequence, self.camera, self.number)

    @cached_property
    def frame(self) -> Frame:
        """The labels with pose and shape; needs the set's hand model."""
        return self.set.frame(self.sequence, self.camera, self.number)

    @cached_property
    def vertices(self) -> np.ndarray:
        """float32 [V, 3], m: the true hand."""
        frame = self.frame
        with torch.no_grad():
            values = (torch.from_numpy(a)[None] for a in (frame.pose, frame.betas, frame.translation))
            return self.set.layer(self.side)(*values).vertices[0].numpy()

    @property
    def faces(self) -> np.ndarray:
        """int64 [F, 3]: the hand's triangles."""
        return self.set.layer(self.side).faces.numpy()

    @property
    def hand_contact(self) -> np.ndarray:
        """bool [V]: which vertices of the hand touch the object."""
        return self._contacts[0]

    @property
    def contact_distances(self) -> tuple[np.ndarray, np.ndarray] | None:
        """float32 [V] and [N], m: signed distances of hand and object cloud to each other; None where a set does not say them."""
        return self.set.contact_distances(self.frame)

    @cached_property
    def _contacts(self) -> tuple[np.ndarray, np.ndarray]:
        return self.set.contacts(self.frame, self.vertices)


class Ho3dSetFrame(SetFrame):
    """One picture of HO-3D. Its own meta file says all."""

    @property
    def distortion(self) -> tuple[float, ...]:
        return ()

    def __init__(self, path: Path, files: Ho3dFolder, number: int):
        super().__init__(path, files, -1, 0, number)

    @cached_property
    def _meta(self) -> dict:
        return read_meta(meta_path(self.path.parents[1], self.number))

    def intrinsics(self, size: tuple[int, int] | None = None) -> np.ndarray:
        if size is not None:
            check_size(size, self.path, "take the original picture, or give the K of this one")
        return camera_of(self._meta, meta_path(self.path.parents[1], self.number)).astype(np.float32)

    @cached_property
    def sequence(self) -> SequenceInfo:
        nameless = SequenceInfo(self.path.parents[1], -1, -1, 0, (), (), 0, "right", "", "")
        return with_object(nameless, self._meta)

    @cached_property
    def labels(self) -> Labels:
        return labels_of(self._meta, meta_path(self.path.parents[1], self.number))

    @cached_property
    def frame(self) -> Frame:
        return self.set.frame(self.sequence, self.number)


class Lookup:
    """Finds frames by their pictures; what the frames of a set share is read once.

    Args:
        mano: folder with MANO_RIGHT.pkl and MANO_LEFT.pkl, for the true hands of recorded sets.
    """

    def __init__(self, mano: str | Path | None = None):
        self.mano = mano
        self._sets: dict[Path, SetFolder | Ho3dFolder] = {}

    def frame_of(self, path: str | Path) -> SetFrame | None:
        """The frame whose picture lies at ``path``; None for a file that lies in no set. Reads no file."""
        path = Path(path).absolute()
        parents = path.parents
        digits = path.stem.removeprefix("color_")
        if not (
            len(parents) > 4
            and parents[0].name in SERIALS
            and parents[2].name in SUBJECTS
            and (parents[3] / "calibration").is_dir()
            and digits.isdecimal()
            and path.name == color_name(int(digits))
        ):
            return self._ho3d_frame(path)
        files = self._set(SetFolder, parents[3])
        subject, camera = SUBJECTS.index(parents[2].name), SERIALS.index(parents[0].name)
        return SetFrame(path, files, subject, camera, int(digits))

    def _ho3d_frame(self, path: Path) -> Ho3dSetFrame | None:
        parents = path.parents
        lists = {part: name for name, part in PARTS.values()}
        if not (
            len(parents) > 4
            and parents[0].name == "rgb"
            and parents[2].name in lists
            and (parents[3] / lists[parents[2].name]).is_file()
            and re.fullmatch(r"\d{4,6}\.jpg", path.name)
        ):
            return None
        return Ho3dSetFrame(path, self._set(Ho3dFolder, parents[3]), int(path.stem))

    def _set(self, kind: type, root: Path) -> SetFolder | Ho3dFolder:
        if root not in self._sets:
            self._sets[root] = kind(root, self.mano)
        return self._sets[root]


def frame_of(path: str | Path, mano: str | Path | None = None) -> SetFrame | None:
    """:meth:`Lookup.frame_of` for a single picture."""
    return Lookup(mano).frame_of(path)
