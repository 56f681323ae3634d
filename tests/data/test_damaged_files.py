"""A thousand damaged files: none crashes or hangs the index or the reader, none is executed, each is counted with its reason.

Damage comes from a fixed seed. What a flipped bit did not change is no problem: a picture that still decodes, or arrays and a
meta.yml that still say the same.
"""

import io
import os
import pickle
import re
import subprocess
import sys
import zipfile
import zlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from layout_files import KINDS, labels, sequence_folder, write_tree

from amt.data.dexycb import DexYCB
from amt.data.errors import BrokenFrame
from amt.data.files import load_npz
from amt.data.images import read_depth
from amt.data.layout import SERIALS
from amt.data.sequences import read_sequence
from amt.data.set_folder import frame_image

COUNT = 1000
SUBJECTS, SEQUENCES = 4, 68
WHOLE, FRAMES = 4, 4  # sequences with frames, whose files are damaged; of the others it is meta.yml or pose.npz


def frames_of(sequence: int) -> int:
    return FRAMES if sequence < WHOLE else 0


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def cut(data, rng, marker):
    return data[: rng.integers(1, len(data) - 70)]


def flip(data, rng, marker):
    data = bytearray(data)
    for at in rng.integers(0, len(data), rng.integers(1, 9)):
        data[at] ^= 1 << rng.integers(8)
    return bytes(data)


def noise(data, rng, marker):
    return rng.bytes(len(data))


def zeros(data, rng, marker):
    return bytes(len(data))


def empty(data, rng, marker):
    return b""


def raw_pickle(data, rng, marker):
    return pickle.dumps(Trap(marker))


def picture(extension, image):
    return lambda data, rng, marker: cv2.imencode(extension, image)[1].tobytes()


def claim(at, size):
    """A picture whose header claims another size; a PNG's checksum is put right."""

    def damage(data, rng, marker):
        place = at(data)
        changed = data[:place] + size + data[place + len(size) :]
        if data.startswith(b"\x89PNG"):
            changed = changed[:29] + zlib.crc32(changed[12:29]).to_bytes(4, "big") + changed[33:]
        return changed

    return damage


def arrays(**changed):
    """An archive with other arrays: values, or functions of the right ones."""

    def damage(data, rng, marker):
        with np.load(io.BytesIO(data)) as archive:
            found = dict(archive)
        for name, change in changed.items():
            found[name] = change(found[name])
        file = io.BytesIO()
        np.savez(file, **{name: array for name, array in found.items() if array is not None})
        return file.getvalue()

    return damage


def objects(name):
    def damage(data, rng, marker):
        return arrays(**{name: lambda _: np.array([Trap(marker)], object)})(data, rng, marker)

    return damage


def member(header, body=b""):
    """An archive whose joint_3d is these bytes."""

    @cache
    def damaged(data):
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, header + body if name == "joint_3d.npy" else old.read(name))
        return file.getvalue()

    return lambda data, rng, marker: damaged(data)


def npy_header(text):
    text = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def text(content):
    return lambda data, rng, marker: content(marker).encode() if callable(content) else content.encode()


ANY = [cut, flip, flip, flip, noise, zeros, empty, "folder", "fifo", "loop", "nowhere", "huge"]
GREY8, COLOUR = np.zeros((480, 640), np.uint8), np.zeros((480, 640, 3), np.uint8)
JPG = [
    picture(".png", COLOUR[:240]),
    picture(".jpg", COLOUR[:240]),
    claim(lambda data: data.index(b"\xff\xc0") + 5, b"\xff\xff\xff\xff"),
    raw_pickle,
]
PNG = [
    picture(".png", GREY8),
    picture(".png", COLOUR),
    picture(".jpg", COLOUR),
    claim(lambda data: 16, b"\x00\x00\xff\xff\x00\x00\xff\xff"),
    raw_pickle,
]
NPZ = [
    raw_pickle,
    arrays(joint_3d=lambda a: a[0]),
    arrays(pose_y=lambda a: np.concatenate([a, a])),
    arrays(pose_m=lambda a: a.astype(np.int32)),
    arrays(joint_2d=lambda a: a.astype(complex)),
    arrays(joint_3d=lambda a: a.astype(str)),
    arrays(pose_m=lambda a: None),
    arrays(seg=lambda a: a[:10]),
    arrays(seg=lambda a: a.astype(np.float64)),
    objects("joint_3d"),
    objects("pose_y"),
    objects("seg"),
    member(npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 21, 300000000000000)}")),
    member(npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, " + "(" * 40)),
    member(npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), pickle.dumps("x")),
    member(bytes(80 << 20)),
]
POSES = [
    raw_pickle,
    objects("pose_y"),
    objects("pose_m"),
    arrays(pose_y=lambda a: a[:, :, :3]),
    arrays(pose_m=lambda a: a.astype(np.int64)),
]
YML = [
    text(lambda marker: f"!!python/object/apply:os.mkdir ['{marker}']"),
    text(lambda marker: f"num_frames: !!python/object/apply:os.mkdir ['{marker}']"),
    text("num_frames: !!python/name:os.system"),
    text("[" * 200_000),
    text(
        "a: &a [x, x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi"))
    ),
    text("num_frames: " + "9" * 5000),
    text("num_frames: 4\nserials: 7\n"),
    raw_pickle,
]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """The tree, the folder that executed code would make, and what was done to each damaged file."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "tree").mkdir()
    root = write_tree(folder / "tree", SUBJECTS, SEQUENCES, frames_of)
    rng, marker = np.random.default_rng(20), folder / "executed"
    places = [sequence_folder(root, s, q) / serial for s in range(SUBJECTS) for q in range(WHOLE) for serial in SERIALS]
    others = [sequence_folder(root, SUBJECTS - 1, q) for q in range(WHOLE, SEQUENCES)]

    def some(name):
        every = [place / name.format(frame) for place in places for frame in range(FRAMES)]
        return [every[i] for i in rng.permutation(len(every))[:312]]

    jobs = [
        (some("color_{:06d}.jpg"), ANY + JPG),
        (some("aligned_depth_to_color_{:06d}.png"), ANY + PNG),
        (some("labels_{:06d}.npz"), ANY + NPZ),
        ([place / "meta.yml" for place in others[:34]], ANY + YML),
        ([place / "pose.npz" for place in others[34:64]], ANY + POSES),
    ]
    done = {}
    for paths, kinds in jobs:
        for turn, path in enumerate(paths):
            done[path] = kinds[turn % len(kinds)]
            damage(path, done[path], rng, marker)
    assert len(done) == COUNT
    return root, marker, done


def damage(path, kind, rng, marker):
    data = path.read_bytes()
    path.unlink()  # other links to the file stay as they are
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "nowhere":
        path.symlink_to("missing")
    elif kind == "huge":
        path.touch()
        os.truncate(path, 1 << 36)  # of holes
    else:
        path.write_bytes(kind(data, rng, marker))


def still_says_the_same(root, path):
    """Whether a file with flipped bits reads as before; a picture need only decode."""
    once = root / "once"
    if path.suffix == ".jpg":
        return frame_image(path).shape == (480, 640, 3)
    if path.suffix == ".png":
        return np.array_equal(read_depth(path), read_depth(once / "depth.png"))
    if path.suffix == ".yml":
        read_sequence(path.parent, 0)
        return True
    if path.name == "pose.npz":
        return set(load_npz(path, ("pose_y", "pose_m"))) == {"pose_y", "pose_m"}
    found = load_npz(path, tuple(labels("near")))
    return any(
        all(np.array_equal(array, expected[name]) for name, array in found.items()) for expected in map(labels, KINDS)
    )


def test_a_thousand_damaged_files(damaged, tmp_path):
    root, marker, done = damaged
    told = tmp_path / "problems.tsv"
    command = [
        sys.executable,
        "-m",
        "amt.data.index",
        root,
        "--decode",
        "--workers",
        "1",
        "--quiet",
        "--problems",
        told,
    ]
    # A program of its own: a decoder's crash is an exit status, a hang is an error here.
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    assert not marker.exists()
    problems = [line.split("\t") for line in told.read_text().splitlines()]
    reasons = {Path(path): reason for path, reason in problems}
    assert set(reasons) <= set(done), "a file that is whole is no problem"
    assert all(reasons.values())
    for path, kind in done.items():
        if path not in reasons:
            assert kind is flip, (path, kind)
            assert still_says_the_same(root, path), path
    assert len(problems) == len(reasons) > 0.9 * COUNT
    counted = [int(count.replace(",", "")) for count in re.findall(r"^([\d,]+) x ", run.stdout, re.MULTILINE)]
    assert sum(counted) == len(problems)
    assert f"{len(problems):,} problems" in run.stdout


def test_the_reader_passes_a_thousand_damaged_files(damaged):
    """After the index has shown that nothing here ends a process."""
    root, marker, done = damaged
    reader = DexYCB(root, "s0", "train")
    good, lost = 0, set()
    for index in range(len(reader)):
        try:
            frame = reader[index]
            assert frame.image().shape == (480, 640, 3)
            good += 1
        except BrokenFrame as error:
            reader.note_broken(error)
            lost.add(error.path)
    assert good > 20
    assert len(lost) > 200
    assert lost <= set(done)
    assert reader.report().count("skipped") == len(reader.broken)
    frame, image = reader.readable(0)
    assert image.shape == (480, 640, 3)
    assert not marker.exists()
