"""200 damaged or hostile result files: each ends in one line, whatever is in it, and none is read into memory whole."""

import json
import zipfile

import numpy as np
import pytest

from amt.data import bop_csv
from amt.evaluate.results import bop, hand_mesh, hand_pose
from amt.evaluate.results.checks import ResultError
from amt.evaluate.results.truth import HandTruth

FRAMES = 12
NASTY = (
    "nan", "inf", "-inf", "1e999", "", " ", "=1+1", "@SUM(A1)", '=HYPERLINK("http://x","y")', "0x1f", "1_0", "None", "ⅷ", "--1",
    "1;2", "\x00", "1e", "[1]", "{}", "'1'",
)  # fmt: skip


@pytest.fixture(scope="module")
def joints():
    return np.random.default_rng(0).normal(0, 0.05, (FRAMES, 21, 3)) + np.array((0, 0, 0.8))


@pytest.fixture(scope="module")
def truth(joints):
    return HandTruth(np.arange(FRAMES), joints * 1000, np.zeros(FRAMES, bool), FRAMES, "s1 test")


def hands(joints):
    return "".join(hand_pose.line(i, x) for i, x in enumerate(joints)).encode()


def objects():
    return (
        bop_csv.HEADER + "\n" + "".join(bop_csv.line(0, i, 3, np.eye(3), (0, 0, 0.8)) for i in range(FRAMES))
    ).encode()


def meshes(joints):
    return json.dumps([joints.tolist(), joints.tolist()]).encode()


def damaged(good, separator, rng):
    """The file cut off in the middle of a number, or with something nasty in place of a number."""
    if rng.random() < 0.4:
        end = int(rng.integers(1, len(good) - 1))
        while good[end - 1 : end] in b"\n" or good[end : end + 1] in (b"\n", b""):
            end -= 1
        return good[:end] if separator == b"," and good[end - 1 : end] != b"," else good[:end] + separator
    parts = good.split(separator)
    parts[int(rng.integers(1, len(parts) - 1))] = NASTY[int(rng.integers(len(NASTY)))].encode()
    return separator.join(parts)


def refused(read):
    with pytest.raises(ResultError) as error:
        read()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("seed", range(60))
def test_damaged_hand_pose_files(seed, joints, truth, tmp_path):
    (tmp_path / "a.txt").write_bytes(damaged(hands(joints), b",", np.random.default_rng(seed)))
    refused(lambda: hand_pose.read(tmp_path / "a.txt", truth))


@pytest.mark.parametrize("seed", range(60))
def test_damaged_object_files(seed, tmp_path):
    rng = np.random.default_rng(seed)
    rows = objects().decode().splitlines()
    fields = rows[int(rng.integers(1, len(rows)))].split(",")
    place = int(rng.integers(7))
    if rng.random() < 0.4:
        fields = fields[: max(place, 1)]
    else:
        fields[place] = NASTY[int(rng.integers(len(NASTY)))]
    rows.insert(int(rng.integers(1, len(rows))), ",".join(fields))
    (tmp_path / "a.csv").write_bytes("\n".join(rows).encode())
    refused(lambda: bop.read(tmp_path / "a.csv", 1, FRAMES))


@pytest.mark.parametrize("seed", range(60))
def test_damaged_mesh_files(seed, joints, tmp_path):
    (tmp_path / "a.json").write_bytes(damaged(meshes(joints), b", ", np.random.default_rng(seed)))
    refused(lambda: hand_mesh.read(tmp_path / "a.json", FRAMES))


def sparse(path, size):
    with path.open("wb") as file:
        file.truncate(size)


def bomb(path, name=hand_mesh.NAME):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"0" * 50_000_000)


HOSTILE = {
    "10 GB of nothing, text": ("a.txt", lambda p: sparse(p, 10**10)),
    "10 GB of nothing, csv": ("a.csv", lambda p: sparse(p, 10**10)),
    "10 GB of nothing, json": ("a.json", lambda p: sparse(p, 10**10)),
    "endless lines": ("a.txt", lambda p: p.write_bytes(b"0,1\n" * 10**6)),
    "more lines than images": (
        "a.txt",
        lambda p: p.write_text("".join(f"{i}{',1' * 63}\n" for i in range(FRAMES + 1))),
    ),
    "an index of 10^18": ("a.txt", lambda p: p.write_text("9" * 18 + ",1" * 63)),
    "an index of 10^400": ("a.txt", lambda p: p.write_text("9" * 400 + ",1" * 63)),
    "one endless line": ("a.csv", lambda p: p.write_bytes(b"1," * 10**6)),
    "a million empty lines": ("a.csv", lambda p: p.write_text(bop_csv.HEADER + "\n" * 10**5)),
    "nested a million deep": ("a.json", lambda p: p.write_text("[" * 10**5)),
    "a number of a million digits": ("a.json", lambda p: p.write_text("[" + "1" * 10**5 + ",2]")),
    "objects in objects": ("a.json", lambda p: p.write_text('{"a":' * 5000 + "1" + "}" * 5000)),
    "null": ("a.json", lambda p: p.write_text("null")),
    "a list of lists of nothing": ("a.json", lambda p: p.write_text(json.dumps([[[]] * FRAMES, [[]] * FRAMES]))),
    "text of another alphabet": ("a.txt", lambda p: p.write_text("零,一" * 9)),
    "a picture": ("a.txt", lambda p: p.write_bytes(bytes(range(256)) * 40)),
    "nothing": ("a.txt", lambda p: p.write_bytes(b"")),
    "no JSON": ("a.json", lambda p: p.write_bytes(b"\x80\x04K\x01.")),
    "a zip bomb": ("a.zip", bomb),
    "a zip file with another name": ("a.zip", lambda p: bomb(p, "../../etc/passwd")),
    "half a zip file": ("a.zip", lambda p: (bomb(p), p.write_bytes(p.read_bytes()[:200]))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name, truth, tmp_path):
    file, make = HOSTILE[name]
    path = tmp_path / file
    make(path)
    readers = {
        ".txt": lambda: hand_pose.read(path, truth),
        ".csv": lambda: bop.read(path, 1, FRAMES),
        ".json": lambda: hand_mesh.read(path, FRAMES),
        ".zip": lambda: hand_mesh.read(path, FRAMES),
    }
    refused(readers[path.suffix])
