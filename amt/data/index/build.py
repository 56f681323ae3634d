"""One pass over a set's tree: every frame's state, and every problem with its reason."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from amt.data.config import LAYOUTS
from amt.data.errors import DataError, FileError
from amt.data.files import load_npz
from amt.data.ho3d import PARTS
from amt.data.ho3d import SPLIT as HO3D_SPLIT
from amt.data.layout import (
    FULL_SEQUENCES,
    GRASPED_CLASSES,
    SERIALS,
    SUBJECTS,
    SUBSETS,
    check_split,
    in_subset,
)
from amt.data.parts import SetParts
from amt.data.processes import end_with_parent
from amt.data.protocols import OFFICIAL, PROTOCOLS, find_protocol
from amt.data.root import check_root
from amt.data.scan import FRAME, Scan, Scanner
from amt.data.scan_ho3d import Ho3dScanner
from amt.data.sequences import SequenceInfo
from amt.data.set_folder import SetFolder
from amt.files import write_bytes

SCANNERS = {"dexycb": Scanner, "ho3d": Ho3dScanner}


@dataclass(frozen=True)
class Index:
    """What one pass found.

    Attributes:
        root: the set's folder.
        frames: FRAME [N]: every frame by subject, sequence, camera and frame.
        problems: (file, reason) of all that cannot be used.
        incomplete: why sample ids are not the official ones; "" where they are.
        layout: "dexycb" or "ho3d".
    """

    root: Path
    frames: np.ndarray
    problems: list[tuple[Path, str]]
    incomplete: str
    layout: str = "dexycb"

    def rows(self, split: str, subset: str) -> np.ndarray:
        """int64 [M]: the frames of a subset, in the order of its sample ids: sample i is ``frames[rows[i]]``."""
        if self.layout == "ho3d":
            if split != HO3D_SPLIT or subset not in SUBSETS:
                raise DataError(f"HO-3D has the split {HO3D_SPLIT} with train and test; got {split!r} {subset!r}")
            return np.flatnonzero(self.frames["subset"] == SUBSETS.index(subset))
        check_split(split, subset)
        starts = np.flatnonzero(self.frames["frame"] == 0)
        lengths = np.diff([*starts, len(self.frames)])
        places = self.frames[starts][["subject", "camera", "sequence", "grasped"]].tolist()
        return np.flatnonzero(np.repeat([in_subset(split, subset, *place) for place in places], lengths))

    def ids(self, split: str, subset: str, protocol: str | None = None) -> np.ndarray:
        """int64: the sample ids that a protocol scores; without a protocol, all of the subset.

        A sample id is the position in the subset, as in the official toolkits and their result files.

        Raises:
            DataError: unknown names, or a protocol that this split, or this set's models, cannot give.
        """
        frames = self.frames[self.rows(split, subset)]
        if protocol is None:
            return np.arange(len(frames))
        chosen = find_protocol(protocol, split)
        unknown = frames["hand"] & frames["object"] & np.isnan(frames["distance"])
        if protocol == "R" and unknown.any():
            raise DataError(
                f"{self.root}: protocol R takes the distance of hand and object, and {unknown.sum()} frames' objects have no "
                "model; put the set's models folder in place and index it again"
            )
        return np.flatnonzero(chosen.admits(_columns(frames)))

    def counts(self) -> list[list[str]]:
        """Rows of the table that the program prints: the counts of each subset beside the official ones."""
        table = [["split", "frames", "official", "hands", "official", "usable", *(f"[{name}]" for name in PROTOCOLS)]]
        for split in LAYOUTS[self.layout]:
            for subset in SUBSETS if self.layout == "dexycb" else PARTS:
                frames = self.frames[self.rows(split, subset)]
                columns = _columns(frames)
                usable = frames["picture"] & frames["labels"] & frames["calibrated"] & frames["hand"]
                line = [f"{split} {subset}"]
                for count, official in zip(
                    (len(frames), frames["hand"].sum()), OFFICIAL.get((split, subset), ("", ""))
                ):
                    line += [f"{count:,}", official or "-"]
                line.append(f"{usable.sum():,}")
                for protocol in PROTOCOLS.values():
                    defined = protocol.split in (None, split)
                    line.append(f"{protocol.admits(columns).sum():,}" if defined else "-")
                table.append(line)
        return table

    def reasons(self) -> list[tuple[int, str, Path]]:
        """(count, reason, first file) of the problems, the most frequent first."""
        counts = Counter(reason for _, reason in self.problems)
        first = {reason: path for path, reason in reversed(self.problems)}
        return [(count, reason, first[reason]) for reason, count in counts.most_common()]

    def save(self, path: str | Path) -> Path:
        """Writes the index as one .npz file."""
        about = {
            "root": str(self.root),
            "problems": [(str(file), reason) for file, reason in self.problems],
            "incomplete": self.incomplete,
            "layout": self.layout,
        }
        content = io.BytesIO()
        np.savez_compressed(content, frames=self.frames, about=np.frombuffer(json.dumps(about).encode(), np.uint8))
        write_bytes(Path(path), content.getvalue())
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Index:
        """Reads what :meth:`save` wrote. Raises FileError."""
        found = load_npz(Path(path), ("frames", "about"))
        if found["frames"].dtype != FRAME:
            raise FileError(path, "is an index of another version", "index the set again")
        about = json.loads(found["about"].tobytes())
        problems = [(Path(file), reason) for file, reason in about["problems"]]
        return cls(Path(about["root"]), found["frames"], problems, about["incomplete"], about["layout"])


def build_index(root: str | Path, decode: bool = False, workers: int = 1, progress: bool = True) -> Index:
    """Indexes the set in a folder.

    Args:
        decode: decode every picture and depth image, instead of a look at format, size and end of the file.
        workers: processes; 1 works in this one.
        progress: show a bar.

    Raises:
        DataError: the folder holds no set of a known layout, or a process died.
    """
    from tqdm import tqdm

    if workers < 1:
        raise DataError(f"workers must be at least 1; got {workers}")
    root = Path(root)
    layout = check_root(root)
    scanner = SCANNERS[layout](root, decode)
    tasks = scanner.tasks()
    if layout == "dexycb":
        sequences = [info for info, _ in tasks]
        incomplete, problems = _incomplete(sequences), _shared_problems(scanner.files, sequences)
    else:
        incomplete, problems = "", []
    frames = []
    with tqdm(total=len(tasks), unit="part", desc="indexing", disable=not progress) as bar:
        for scan in _scans(scanner, layout, root, decode, workers, tasks):
            frames.append(scan.frames)
            problems += scan.problems
            bar.update()
    frames = np.concatenate(frames)
    if layout == "ho3d":
        held = np.unique(frames["grasped"])
        problems += _model_problems(scanner.files, {GRASPED_CLASSES[k] for k in held if k >= 0})
    return Index(root, frames, problems, incomplete, layout)


def _columns(frames: np.ndarray) -> dict[str, np.ndarray]:
    """What a protocol asks of frames (:class:`amt.data.protocols.Protocol`)."""
    subject, sequence, camera = (frames[name].astype(np.int64) + 1 for name in ("subject", "sequence", "camera"))
    return {
        **{name: frames[name] for name in ("hand", "object", "right", "distance")},
        "run": subject << 40 | sequence << 16 | camera,
        "number": frames["frame"],
    }


def _scans(
    scanner: Scanner | Ho3dScanner, layout: str, root: Path, decode: bool, workers: int, tasks: list
) -> Iterator[Scan]:
    if workers == 1:
        yield from (scanner.scan(*task) for task in tasks)
        return
    # spawn: a fork would copy PyTorch's thread pool in whatever state it is.
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (layout, root, decode)) as pool:
        try:
            yield from pool.map(_scan, tasks, chunksize=4)
        except BrokenProcessPool as error:
            raise DataError(f"{root}: a process that read it died; index it with --workers 1 to see where") from error


_scanner: Scanner | Ho3dScanner  # of a worker process


def _start_worker(layout: str, root: Path, decode: bool) -> None:
    global _scanner
    end_with_parent()
    _scanner = SCANNERS[layout](root, decode)


def _scan(task: tuple) -> Scan:
    return _scanner.scan(*task)


def _shared_problems(files: SetFolder, sequences: list[SequenceInfo]) -> list[tuple[Path, str]]:
    """What is wrong with calibration and models of a set in DexYCB's layout, which many sequences share."""
    subjects = [files.root / name for name in SUBJECTS]
    strange = [(path, "is no folder") for path in subjects if os.path.lexists(path) and not path.is_dir()]
    whole = [info for info in sequences if info.fault is None]
    reads = [lambda c=camera: files.intrinsics(c) for camera in range(len(SERIALS))]
    reads += [lambda i=info: files.extrinsics(i, 0) for info in {i.extrinsics: i for i in whole}.values()]
    reads += [lambda i=info: files.betas(i) for info in {i.mano_calib: i for i in whole}.values()]
    return strange + _problems(reads, files) + _model_problems(files, {c for info in whole for c in info.class_ids})


def _model_problems(files: SetParts, classes: set[int]) -> list[tuple[Path, str]]:
    return _problems([lambda c=c: files.objects.cloud(c) for c in sorted(classes)], files)


def _problems(reads: list[Callable[[], object]], files: SetParts) -> list[tuple[Path, str]]:
    """What these calls raise."""
    problems = []
    for read in reads:
        try:
            read()
        except FileError as error:
            problems.append((error.path, error.reason))
        except DataError as error:
            problems.append((files.objects.folder, str(error)))
    return problems


def _incomplete(sequences: list[SequenceInfo]) -> str:
    """Why the numbers of samples are not the toolkit's, which counts 10 x 100 sequences x 8 cameras."""
    found = Counter(info.subject for info in sequences)
    for subject, name in enumerate(SUBJECTS):
        if found[subject] != FULL_SEQUENCES:
            return f"{name} has {found[subject]} of {FULL_SEQUENCES} sequences"
    for info in sequences:
        if info.fault is not None and not info.num_frames:
            return f"the frames of {info.folder} cannot be counted"
        if set(info.serials) != set(SERIALS):
            return f"{info.folder / 'meta.yml'} does not name the {len(SERIALS)} cameras"
    return ""
