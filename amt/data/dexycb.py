"""The one reader of DexYCB's layout: the recorded set, or a synthetic one that ``amt.data.synthetic`` wrote.

The index of a split runs subject, sequence, camera, frame, exactly as the data set's own toolkit numbers it: that integer
is the id in result files. Building it reads one small file a sequence and touches no frame; labels and pictures are read
when asked for. A sequence whose meta.yml is broken keeps its number and its frames' ids; each of these frames is broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from amt.data.errors import DataError, EmptySubset
from amt.data.layout import CLASS_NAMES, FULL_SEQUENCES, GRASPED_CLASSES, SERIALS, check_split, in_subset
from amt.data.reader import Reader
from amt.data.sequences import SequenceInfo, find_sequences
from amt.data.set_folder import Frame, SetFolder


class DexYCB(SetFolder, Reader):
    """A subset of a split: ``len``, ``[i] -> Frame``, and what calibration and models say.

    On a recorded set the object in the hand is sequence // 5, which decides split s3. A synthetic set with fewer than 100
    sequences a subject cannot follow that: there meta.yml says which object is held.

    Args:
        root: folder with the subjects' folders, ``calibration`` and ``models``.
        split: "s0" to "s3"; subset: "train", "val" or "test".
        mano: folder with MANO_RIGHT.pkl and MANO_LEFT.pkl. Not needed for a set rendered with AMT's own hand.

    Raises:
        EmptySubset: the set has no frame of this subset.
        MissingHand: a recorded set without MANO's files.
        DataError: unknown split or subset; a folder that is missing, empty or not in this layout; no calibration.
    """

    frame_files = ("color_", "labels_", "aligned_depth_")

    def __init__(self, root: str | Path, split: str = "s0", subset: str = "train", mano: str | Path | None = None):
        check_split(split, subset)
        super().__init__(root, mano)
        self.split, self.subset = split, subset
        self.sequences = find_sequences(self.root)
        if not (self.root / "calibration").is_dir():
            raise DataError(f"{self.root / 'calibration'}: is missing; put the set's calibration folder there")
        for side in ("right", "left"):
            self.layer(side)  # a set whose hands cannot be posed is refused here, not at its first frame
        self._index_frames()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[SequenceInfo, int, int]:
        """The sequence, the camera (index into SERIALS) and the frame number of a sample."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} frames")
        run = int(np.searchsorted(self._ends, index, side="right"))
        sequence, camera = self._runs[run]
        return self.sequences[sequence], camera, index - int(self._ends[run - 1] if run else 0)

    def __getitem__(self, index: int) -> Frame:
        """Labels of one sample; its pictures are read by the frame's methods. Raises BrokenFrame."""
        return self.frame(*self.locate(int(index)), index=int(index))

    def frame_folders(self) -> list[Path]:
        """The folders that hold the subset's pictures and labels, in the order of the index."""
        return [self.sequences[sequence].folder / SERIALS[camera] for sequence, camera in self._runs]

    def shared_files(self) -> Iterator[Path]:
        for info in self.sequences:
            yield from (info.folder / name for name in ("meta.yml", "contact.npz"))

    def _index_frames(self) -> None:
        runs, lengths = [], []
        for position, (info, grasped) in enumerate(zip(self.sequences, grasped_objects(self, self.sequences))):
            for camera, serial in enumerate(SERIALS):
                if serial in info.serials and in_subset(
                    self.split, self.subset, info.subject, camera, info.number, grasped
                ):
                    runs.append((position, camera))
                    lengths.append(info.num_frames)
        if not sum(lengths):
            raise EmptySubset(
                f"{self.root}: {self.split} {self.subset} holds no frame of its {len(self.sequences)} sequences; "
                "choose another split, or a set with more subjects and sequences"
            )
        self._runs, self._ends = runs, np.cumsum(lengths)
        for position in dict.fromkeys(position for position, _ in runs):
            if self.sequences[position].fault is not None:
                self.note_broken(self.sequences[position].fault)


def grasped_objects(files: SetFolder, sequences: list[SequenceInfo]) -> list[int]:
    """For each sequence the index into GRASPED_CLASSES of the object in the hand; -1 for one that is never grasped."""
    all_objects = len(files.record.get("object_names", CLASS_NAMES)) == len(CLASS_NAMES)
    per_subject = Counter(info.subject for info in sequences)

    def grasped(info: SequenceInfo) -> int:
        if per_subject[info.subject] == FULL_SEQUENCES and all_objects:
            return info.number // 5
        return GRASPED_CLASSES.index(info.class_id) if info.class_id in GRASPED_CLASSES else -1

    return [grasped(info) for info in sequences]
