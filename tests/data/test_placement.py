"""Batches are the same wherever their pixels lie, and windows are frames of one camera that are varied alike."""

import numpy as np
import pytest
import torch

from amt.data.augment import change_camera
from amt.data.config import AugmentConfig, CropConfig, DataConfig
from amt.data.crop_cache import build_cache
from amt.data.dexycb import DexYCB
from amt.data.draws import draw
from amt.data.errors import DataError
from amt.data.loader import CropDataset, Loader, make_loader
from amt.data.placement import Resident, _side_stream, make_resident, prefetched
from amt.data.windows import find_windows, tile
from amt.hand.camera import project

CROP = CropConfig(size=32, num_points=8, alpha=True)
VARIED = AugmentConfig(background=0.5, occlude=0.3, perspective=8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tiny_set, tmp_path_factory):
    reader = DexYCB(tiny_set, "s0", "train")
    return build_cache(reader, CROP, tmp_path_factory.mktemp("crops"), progress=False)


def same(a, b):
    for (name, x), (_, y) in zip(a.named_tensors(), b.named_tensors(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("augment", [None, VARIED])
@pytest.mark.parametrize("resident", [True, False])
def test_batches_of_a_device_are_those_of_the_processor(cache, augment, resident):
    """The device's way with its streams, on a processor: resident cuts, copies ahead of time, the order of batches."""
    plain = Loader(CropDataset(cache, CROP, augment), 8, shuffle=True)
    dataset = CropDataset(cache, CROP, augment)
    if resident:
        dataset.resident = Resident(cache, CPU, ("image", "alpha"))
    host = (dataset.cuts(rows, 0, with_pixels=not resident) for rows in plain.rows())
    staged = list(prefetched(host, dataset.finish, CPU))
    expected = list(plain)
    assert len(staged) == len(expected) > 3
    for a, b in zip(staged, expected, strict=True):
        same(a, b)


def test_epochs_share_a_side_stream_which_waits_for_what_was_put_on_the_device(cache, monkeypatch):
    """The allocator holds memory for each stream: one stream an epoch would take as much again in every epoch."""
    made, waited = [], []

    class Stream(torch.cpu.Stream):
        def __init__(self):
            made.append(self)

        def wait_stream(self, other):
            waited.append((self, other))

    monkeypatch.setattr(torch.cpu, "Stream", Stream)
    _side_stream.cache_clear()
    dataset = CropDataset(cache, CROP)
    for _ in range(3):
        assert len(list(prefetched((dataset.cuts(np.arange(4)) for _ in range(2)), dataset.finish, CPU))) == 2
    _side_stream.cache_clear()
    assert len(made) == 1
    assert waited == [(made[0], torch.cpu.current_stream())] * 3


def test_only_one_batch_is_made_ahead(cache):
    made = []
    dataset = CropDataset(cache, CROP)

    def host():
        for k in range(5):
            made.append(k)
            yield dataset.cuts(np.arange(4))

    batches = prefetched(host(), dataset.finish, CPU)
    for k in range(5):
        next(batches)
        assert made == list(range(min(k + 2, 5)))


def test_what_does_not_fit_is_copied_and_told(cache, monkeypatch):
    device, said = torch.device("cuda", 0), []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1_000_000, 2_000_000))
    assert make_resident(cache, device, 0.01, ("image",), said.append) is None
    assert "are more than data.on_device=0.01 of the 1 MB that are free on cuda:0" in said[0]
    assert make_resident(cache, CPU, 1.0, ("image",), said.append) is None
    assert len(said) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_batches_on_a_gpu_look_like_those_of_the_processor(cache, share):
    device = torch.device("cuda", 0)
    plain = Loader(CropDataset(cache, CROP, VARIED), 8, shuffle=True)
    dataset = CropDataset(cache, CROP, VARIED)
    dataset.place(device, share, lambda line: None)
    assert (dataset.resident is not None) == (share > 0)
    for a, b in zip(Loader(dataset, 8, shuffle=True, device=device), plain, strict=True):
        for (name, x), (_, y) in zip(a.named_tensors(), b.named_tensors(), strict=True):
            assert x.device == device
            if name == "inputs.image":
                assert (x.cpu().float() - y.float()).abs().mean() < 0.6
            elif x.is_floating_point():
                torch.testing.assert_close(x.cpu(), y, atol=1e-4, rtol=1e-5)


def test_a_window_is_frames_of_one_camera_in_time(cache):
    dataset = CropDataset(cache, CROP, VARIED, window=3)
    loader = Loader(dataset, 6, shuffle=True)
    seen = set()
    for epoch in range(8):
        loader.set_epoch(epoch)
        for rows, batch in zip(loader.rows(), loader, strict=True):
            run, number = cache["run"][rows].reshape(-1, 3), cache["number"][rows].reshape(-1, 3)
            assert (run == run[:, :1]).all()
            assert (np.diff(number, axis=1) == 1).all()
            np.testing.assert_array_equal(cache["index"][rows], batch.index.numpy())
            assert batch.window.tolist() == [0, 0, 0, 1, 1, 1]
            seen.update(map(tuple, rows.reshape(-1, 3).tolist()))
    assert len(loader) == len(loader.windows) // 3 // 2
    assert len(seen) > len(loader) * 2 * 2  # an epoch takes some windows, the next one others
    # Sequences of four frames: two windows of three, or one with a stride of 3 and two frames
    assert len(loader.windows) == len(cache) // 4 * 2
    assert len(Loader(CropDataset(cache, CROP, window=2), 2, shuffle=True, stride=3).windows) == len(cache) // 4
    assert len(Loader(CropDataset(cache, CROP, window=2), 2, stride=2).windows) == len(cache) // 2


def test_a_window_is_varied_as_one(cache):
    """The same rotation of the camera and the same look; each frame's box follows its own hand."""
    rows = Loader(CropDataset(cache, CROP, VARIED, window=3), 6, shuffle=True).rows()[0]
    together = CropDataset(cache, CROP, VARIED, window=3).batch(rows, 5)
    key = cache["index"][rows].reshape(-1, 3)[:, :1].repeat(3, 1).reshape(-1)
    view, look = draw(VARIED, 0, 5, key, cache["index"][rows], CROP.size, 64)
    for name in ("rotation", "shift", "zoom"):
        value = getattr(view, name).unflatten(0, (2, 3))
        assert (value == value[:, :1]).all(), name
        assert (value[0] != value[1]).any(), name
    assert (look.curves.unflatten(0, (2, 3)) == look.curves.unflatten(0, (2, 3))[:, :1]).all()
    assert len(set(look.grain.tolist())) == 6  # the grain of noise is each frame's own
    joints = torch.from_numpy(cache["joints"][rows])
    torch.testing.assert_close(together.targets.joints, joints @ view.rotation.float().mT)
    alone = CropDataset(cache, CROP, VARIED).batch(rows[:1], 5)
    same(alone.inputs, together[:1].inputs)
    assert change_camera(alone.inputs, view[:1], CROP.size, CROP.cut_size)
    pixels = project(together.targets.joints, together.inputs.intrinsics)
    assert ((pixels > -CROP.size) & (pixels < 2 * CROP.size)).all()


def test_gaps_and_ends_break_windows():
    run = np.array([5, 5, 5, 5, 5, 9, 9, 9, 2])
    number = np.array([0, 1, 2, 4, 5, 0, 1, 2, 3])
    assert find_windows(run, number, 2, 1).tolist() == [[0, 1], [1, 2], [3, 4], [5, 6], [6, 7]]
    assert find_windows(run, number, 3, 2).tolist() == [[0, 2, 3]]
    assert find_windows(run, number, 4, 1).tolist() == []
    shuffled = np.array([3, 0, 7, 1, 8, 2, 6, 5, 4])
    found = find_windows(run[shuffled], number[shuffled], 2, 1)
    assert sorted(shuffled[found].tolist()) == [[0, 1], [1, 2], [3, 4], [5, 6], [6, 7]]
    assert tile(find_windows(run, number, 2, 1), 9).tolist() == [[0, 1], [3, 4], [5, 6]]


def test_wrong_windows_are_one_line(cache, tiny_set, tmp_path):
    with pytest.raises(DataError, match=r"no camera has 9 frames, 1 apart, without a gap; take a smaller data\.window"):
        Loader(CropDataset(cache, CROP, window=9), 9, shuffle=True)
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of data\.window=3; got 8"):
        Loader(CropDataset(cache, CROP, window=3), 8)
    with pytest.raises(ValueError, match=r"data\.window must be at least 1; got 0"):
        DataConfig(window=0)
    config = DataConfig(root=str(tiny_set), split="s0", cache=str(tmp_path), crop=CROP, window=3)
    loader = make_loader(config, "train", 6, augment=False, shuffle=False, progress=False)
    assert torch.cat([batch.index for batch in loader]).tolist() == list(range(128))  # each frame once
    assert next(iter(loader)).window is None
