"""A crop cache whose files are damaged, whole or half cut, is cut again; all code that makes a row is in its name."""

import ast
import os
from pathlib import Path

import numpy as np
import pytest
from layout_files import write_tree

import amt
from amt.data import fingerprint
from amt.data.cache import PART
from amt.data.config import CropConfig
from amt.data.crop_cache import CropCache, build_cache
from amt.data.dexycb import DexYCB
from amt.data.errors import DataError

CROP = CropConfig(size=16, num_points=8)
WITHOUT_EFFECT = {
    "data/config.py",  # the settings themselves are in the name
    "data/errors.py",
    "data/reader.py",  # counts and replaces
    "data/root.py",
    "data/synthetic/config.py",  # the command that finishes a set
    "hand/autocast.py",
    "hand/mano_file.py",  # the arrays that they read have their own digest
    "hand/shipped.py",
    "kernels/_autocast.py",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """One sequence, one frame for each of eight cameras, six of them with a hand."""
    return write_tree(tmp_path_factory.mktemp("tree"), 1, 1, lambda _: 1)


def build(tree, folder, said=None):
    return build_cache(DexYCB(tree, "s0", "train"), CROP, folder, False, None if said is None else said.append)


@pytest.mark.parametrize(
    "damage",
    [
        "{}",
        "[1]",
        "no JSON",
        '{"frames": [0, 8]}',
        '{"frames": [0, 8], "rows": 6, "left_out": {"one": "two"}, "broken": {}}',
        '{"frames": [0, 8], "rows": 6, "left_out": {}, "broken": {"reason": 3}}',
        '{"frames": [0, 8], "rows": 5, "left_out": {}, "broken": {}}',
        "missing",
        "short",
    ],
)
def test_a_damaged_shard_of_a_cut_that_was_stopped_is_cut_again(tree, tmp_path, damage):
    built = build(tree, tmp_path)
    images, folder = np.array(built["image"]), built.folder
    assert len(images) == 6
    del built
    part = folder.with_name(f"{PART}{folder.name}")
    os.rename(folder, part)
    (part / "info.json").unlink()
    if damage == "missing":
        (part / "00000.image.bin").unlink()
    elif damage == "short":
        os.truncate(part / "00000.labels.bin", 10)
    else:
        (part / "00000.json").write_text(damage)
    np.testing.assert_array_equal(build(tree, tmp_path)["image"], images)
    assert not part.exists()


@pytest.mark.parametrize(
    "info",
    [
        '{"files": {"image": []}, "shards": []}',
        '{"files": {"labels": [["index", "int99", []]]}, "shards": [1]}',
        '{"files": {"labels": [["index", "<i8"]]}, "shards": [1]}',
        '{"files": {}, "shards": [1]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_description_is_one_line_and_a_new_cut(tree, tmp_path, info):
    folder, said = build(tree, tmp_path).folder, []
    (folder / "info.json").write_text(info)
    with pytest.raises(DataError, match="is no whole crop cache"):
        CropCache(folder)
    assert len(build(tree, tmp_path, said)) == 6
    assert "is no whole crop cache" in said[0]


def test_all_code_between_a_set_and_a_row_is_in_the_cache_s_name():
    root, reached, waiting = Path(amt.__file__).parent, set(), ["data/crops.py", "data/dexycb.py", "data/ho3d.py"]
    while waiting:
        name = waiting.pop()
        if name in reached | WITHOUT_EFFECT:
            continue
        reached.add(name)
        for node in ast.walk(ast.parse((root / name).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("amt.data", "amt.hand")):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                paths = [f"{each.removeprefix('amt.').replace('.', '/')}.py" for each in names]
                waiting += [path for path in paths if (root / path).is_file()]
    assert sorted(reached) == sorted(fingerprint._CODE)
