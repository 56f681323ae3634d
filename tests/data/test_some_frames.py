"""Some frames of a set: spread evenly, with their own indices, cut by themselves, also by several processes."""

import pickle

import numpy as np
import pytest
from layout_files import write_tree

from amt.data.config import CropConfig, DataConfig
from amt.data.loader import make_loader, open_reader
from amt.data.some_frames import spread_evenly


@pytest.mark.parametrize("span", [1, 3])
@pytest.mark.parametrize(("total", "count"), [(100, 10), (7, 7), (7, 20), (5, 1), (1, 4), (100, 3)])
def test_groups_are_whole_and_reach_from_end_to_end(total, count, span):
    numbers = spread_evenly(total, count, span)
    assert len(set(numbers)) == len(numbers)
    assert (numbers == np.sort(numbers)).all()
    assert len(numbers) <= max(count, span)
    assert numbers[0] == 0
    assert count // span < 2 or numbers[-1] == total - 1
    starts = numbers[np.diff(numbers, prepend=-2) != 1]
    assert all(set(range(s, min(s + span, total))) <= set(numbers) for s in starts)


def test_as_many_as_there_are_is_all_of_them():
    assert spread_evenly(50, 50).tolist() == list(range(50))
    assert spread_evenly(64, 32).tolist() == [k * 63 // 31 for k in range(32)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("some"), 2, 3, lambda sequence: 3)


def test_a_loader_shows_so_many_frames_of_each_subset(tree, tmp_path):
    config = DataConfig(
        root=str(tree), split="s0", cache=str(tmp_path), limit=9, crop=CropConfig(size=32, num_points=4)
    )
    reader = open_reader(config, "train")
    wanted = [reader[i].index for i in range(len(reader))]
    everything = len(open_reader(DataConfig(root=str(tree), split="s0"), "train"))
    assert len(wanted) == 9
    assert (wanted[0], wanted[-1]) == (0, everything - 1)
    labelled = {i for i in wanted if reader._reader[i].hand_valid}
    first = make_loader(config, "train", 4, augment=False, shuffle=False, progress=False)
    assert {int(i) for batch in first for i in batch.index} == labelled
    whole = make_loader(
        DataConfig(root=str(tree), split="s0", cache=str(tmp_path), crop=config.crop),
        "train",
        4,
        shuffle=False,
        progress=False,
    )
    assert len(whole.dataset) > len(first.dataset)
    assert first.digest() != whole.digest()
    again = make_loader(config, "train", 4, shuffle=False, progress=False)
    assert again.dataset.cache.folder == first.dataset.cache.folder  # neither removed the other's crops


def test_windows_stay_whole(tree, tmp_path):
    config = DataConfig(
        root=str(tree), split="s0", cache=str(tmp_path), limit=24, window=2, crop=CropConfig(size=32, num_points=4)
    )
    loader = make_loader(config, "train", 4, progress=False)
    assert len(loader.windows) >= 3
    assert all(batch.window.tolist() == [0, 0, 1, 1] for batch in loader)


def test_a_process_that_cuts_gets_the_same_frames(tree):
    reader = open_reader(DataConfig(root=str(tree), split="s0", limit=20), "train")
    again = pickle.loads(pickle.dumps(reader))
    assert [again[i].index for i in range(len(again))] == [reader[i].index for i in range(len(reader))]
    assert again.limit == reader.limit == [20, 1]
