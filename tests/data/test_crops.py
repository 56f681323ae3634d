"""Crops, their intrinsics and their labels stay consistent, exact in float32, and the same for any number of workers."""

import cv2
import numpy as np
import pytest
import torch

from amt.data.config import AugmentConfig, CropConfig
from amt.data.crop_cache import build_cache
from amt.data.crops import cut, rows_needed
from amt.data.dexycb import DexYCB
from amt.data.draws import draw
from amt.data.loader import CropDataset, DataConfig, Loader, make_loader
from amt.hand.camera import crop_camera, project
from amt.hand.shipped import shipped_hand

SMALL = CropConfig(size=64, num_points=64)
GEOMETRY_ONLY = AugmentConfig(brightness=0, contrast=0, gamma=0, tint=0, hue=0, blur=0, noise=0, erase=0)


@pytest.fixture(scope="module")
def cached(tiny_set, tmp_path_factory):
    reader = DexYCB(tiny_set, "s0", "train")
    return reader, build_cache(reader, SMALL, tmp_path_factory.mktemp("crops"), progress=False)


def bright_spot(image):
    """Centroid (x, y) of a picture's light."""
    weight = image.astype(np.float64).sum(-1)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def spot_at(pixel, sigma=2.0):
    y, x = np.mgrid[:480, :640]
    light = 255 * np.exp(-((x - pixel[0]) ** 2 + (y - pixel[1]) ** 2) / (2 * sigma**2))
    return np.repeat(light[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize("side", [60.0, 140.0, 420.0])
@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0])
def test_a_bright_dot_lands_where_the_crop_camera_projects_it(side, angle):
    k = np.array([[613.0, 0, 313.0], [0, 611.5, 245.0], [0, 0, 1]])
    point = np.array([[0.03, -0.05, 0.7]])
    pixel = project(point, k)[0].numpy()
    box = (pixel[0] + 0.12 * side, pixel[1] - 0.08 * side, side)
    crop_k, warp = crop_camera(k, box, 96, angle)
    found = bright_spot(cut(spot_at(pixel, sigma=max(2.0, side / 40)), warp.numpy(), 96))
    c, s = np.cos(angle), np.sin(angle)
    rotated = point @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    np.testing.assert_allclose(found, project(rotated, crop_k)[0].numpy(), atol=0.15)


def test_what_lies_below_the_rows_that_a_crop_needs_does_not_change_it():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    spared = 0
    for side in (30.0, 90.0, 200.0, 430.0, 610.0, 900.0, 1700.0):
        for x, y in rng.uniform((-50, -200), (690, 600), (12, 2)):
            warp = crop_camera(np.eye(3), np.array([x, y, side]), 96)[1].numpy()
            rows = rows_needed(warp, 96)
            below = image.copy()
            below[rows:] = 0
            np.testing.assert_array_equal(cut(image, warp, 96), cut(below, warp, 96))
            assert rows >= 1
            spared += max(0, 480 - rows)
    assert spared > 84 * 50


def test_cached_cuts_are_those_of_the_whole_pictures(cached):
    reader, cache = cached
    for row in range(0, len(cache), 9):
        frame = reader[int(cache["index"][row])]
        wide = cache["box"][row] * np.array([1, 1, SMALL.cut_size / SMALL.size], np.float32)
        warp = crop_camera(frame.intrinsics.astype(np.float64), wide.astype(np.float64), SMALL.cut_size)[1].numpy()
        whole = cv2.imread(str(frame.image_path))[..., ::-1]
        np.testing.assert_array_equal(cache["image"][row], cut(np.ascontiguousarray(whole), warp, SMALL.cut_size))


@pytest.mark.parametrize("augment", [None, AugmentConfig(occlude=0.5, blur=0.5, grey=0.5)])
def test_batches_do_not_depend_on_threads(cached, augment):
    dataset, rows, before = CropDataset(cached[1], SMALL, augment), np.arange(40)[::-1], torch.get_num_threads()
    made = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            made.append(dataset.batch(rows, 3))
    finally:
        torch.set_num_threads(before)
    for (name, x), (_, y) in zip(made[0].named_tensors(), made[1].named_tensors(), strict=True):
        assert torch.equal(x, y), name


def test_a_planted_joint_is_found_through_cache_and_augmentation(own_set, tmp_path):
    """The whole chain: a dot painted over one joint of the stored pictures lies on that joint's label in every batch."""
    reader = DexYCB(own_set, "s0", "train")
    frames = [reader[i] for i in range(0, len(reader), 5)]
    for frame in frames:
        picture = spot_at(frame.joints_2d[9], sigma=3.0)
        cv2.imwrite(str(frame.image_path), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
    cache = build_cache(reader, CropConfig(size=96, num_points=32), tmp_path, progress=False)
    rows = np.array([frame.index for frame in frames])
    np.testing.assert_array_equal(cache["index"][rows], rows)
    for augment in (None, GEOMETRY_ONLY):
        batch = CropDataset(cache, CropConfig(size=96, num_points=32), augment).batch(rows, epoch=1)
        expected = project(batch.targets.joints, batch.inputs.intrinsics)[:, 9].numpy()
        for image, pixel in zip(batch.inputs.image.numpy(), expected, strict=True):
            assert np.abs(bright_spot(image.transpose(1, 2, 0)) - pixel).max() < 0.5


def test_true_boxes_hold_the_joints_as_protocol_v_says(cached):
    reader, cache = cached
    batch = CropDataset(cache, SMALL).batch(np.arange(len(cache)))
    pixels = project(batch.targets.joints, batch.inputs.intrinsics).numpy()
    extent = np.ptp(pixels, axis=1).max(1)
    np.testing.assert_allclose(extent, SMALL.size / SMALL.box_scale, rtol=0.01)
    middle = (pixels.max(1) + pixels.min(1)) / 2
    np.testing.assert_allclose(middle, (SMALL.size - 1) / 2, atol=0.05)
    frame = reader[int(batch.index[7])]
    np.testing.assert_array_equal(batch.targets.joints[7].numpy(), frame.joints)


def test_labels_are_float32_to_the_last_bit(cached):
    """At 0.8 m bfloat16 is 2-4 mm coarse: no stored or batched label may have passed through it."""
    reader, cache = cached
    for name, (shape, dtype) in SMALL.fields(shipped_hand().num_vertices).items():
        assert cache[name].dtype == np.dtype(dtype), name
        assert cache[name].shape[1:] == shape, name
        if dtype.startswith("float"):
            assert dtype == "float32", name
    batch = CropDataset(cache, SMALL, AugmentConfig()).batch(np.arange(8))
    for name, tensor in batch.named_tensors():
        assert tensor.dtype in (torch.float32, torch.bool, torch.int64, torch.uint8), name
    joints = torch.from_numpy(np.array(cache["joints"]))
    assert (joints.bfloat16().float() - joints).abs().max() > 1e-3  # what it would have cost
    stored = np.stack([reader[int(i)].joints for i in cache["index"]])
    np.testing.assert_array_equal(cache["joints"], stored)


def test_a_crop_that_is_not_varied_is_the_middle_of_the_cached_cut(cached):
    """No pixel is interpolated twice, and the true box is the middle exactly, whatever the margin."""
    _, cache = cached
    rim = (SMALL.cut_size - SMALL.size) // 2
    batch = CropDataset(cache, SMALL).batch(np.arange(5))
    middle = cache["image"][:5, rim : rim + SMALL.size, rim : rim + SMALL.size]
    np.testing.assert_array_equal(batch.inputs.image.numpy(), middle.transpose(0, 3, 1, 2))
    still = AugmentConfig(
        turn=0, zoom=0, shift=0, brightness=0, contrast=0, gamma=0, tint=0, hue=0, blur=0, noise=0, erase=0, grey=0
    )
    same = CropDataset(cache, SMALL, still).batch(np.arange(5))
    torch.testing.assert_close(same.inputs.intrinsics, batch.inputs.intrinsics, atol=1e-3, rtol=0)
    assert torch.equal(same.inputs.image, batch.inputs.image)
    for margin in (1.0, 1.13, 1.4, 2.0):
        config = CropConfig(size=64, margin=margin)
        assert (config.cut_size - 64) % 2 == 0
        assert abs(config.cut_size - 64 * margin) <= 1


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_joints_land_on_the_frame_s_pixels_when_the_crop_is_mapped_back(cached, epoch):
    """Random boxes, rotations and zooms through cache and loader: crop pixels, un-warped, are the frame's own projections."""
    _, cache = cached
    strong = AugmentConfig(turn=180, zoom=0.4, shift=0.2, brightness=0, contrast=0, gamma=0, tint=0, hue=0, noise=0)
    rows = np.arange(0, len(cache), 2)
    batch = CropDataset(cache, SMALL, strong).batch(rows, epoch)
    view, _ = draw(strong, 0, epoch, batch.index.numpy(), batch.index.numpy(), SMALL.size)
    angle = torch.atan2(view.rotation[:, 1, 0], view.rotation[:, 0, 0])
    box = torch.from_numpy(cache["box"][rows]).double()
    drawn = torch.cat([box[:, :2] + view.shift * box[:, 2:], box[:, 2:] * view.zoom[:, None]], 1)
    frame = batch.inputs.frame_intrinsics.double()
    _, warp = crop_camera(frame, drawn, SMALL.size, angle)  # straight from the frame, without the cached cut between

    in_crop = project(batch.targets.joints.double(), batch.inputs.intrinsics.double())
    back = torch.linalg.solve(warp[:, :, :2], (in_crop - warp[:, None, :, 2]).mT).mT
    in_frame = project(torch.from_numpy(cache["joints"][rows]).double(), frame)
    assert (back - in_frame).norm(dim=-1).max() < 0.01  # px of the frame
    assert angle.abs().max() > 1
    assert np.ptp(view.zoom.numpy()) > 0.2


def test_batches_do_not_depend_on_workers_and_do_depend_on_seed_and_epoch(cached):
    _, cache = cached

    def loader(workers, seed=0):
        return Loader(CropDataset(cache, SMALL, AugmentConfig(), seed), 16, shuffle=True, workers=workers)

    def batches(loader, epoch=2, first=0):
        loader.set_epoch(epoch, first)
        return list(loader)

    def same(some, others):
        return len(some) == len(others) and all(
            name == other and torch.equal(x, y)
            for a, b in zip(some, others)
            for (name, x), (other, y) in zip(a.named_tensors(), b.named_tensors(), strict=True)
        )

    whole = batches(loader(0))
    assert len(whole) == len(cache) // 16
    assert len(whole) > 4
    for workers in (0, 2, 3):
        resumed = loader(workers)  # as a run that continues in the middle of an epoch
        assert same(batches(resumed, first=3), whole[3:])
        assert same(batches(resumed), whole)
        next(iter(resumed))  # an epoch that is given up leaves nothing behind
        assert same(batches(resumed, first=2), whole[2:])
    assert not same(batches(loader(0), epoch=3), whole)
    assert not same(batches(loader(0, seed=1)), whole)


def test_a_run_that_continues_on_two_ranks_sees_the_samples_that_are_left(cached):
    _, cache = cached
    one = Loader(CropDataset(cache, SMALL), 16, shuffle=True)
    two = [Loader(CropDataset(cache, SMALL), 8, shuffle=True, rank=rank, world_size=2) for rank in range(2)]
    for loader in (one, *two):
        loader.set_epoch(1, first_batch=2)
    left = [batch.index.tolist() for batch in one]
    assert len(left) == len(cache) // 16 - 2
    assert [sorted(a.index.tolist() + b.index.tolist()) for a, b in zip(*two, strict=True)] == [sorted(i) for i in left]


def test_ranks_share_an_epoch_without_overlap(cached):
    _, cache = cached
    parts = [Loader(CropDataset(cache, SMALL), 8, shuffle=True, rank=r, world_size=2).rows() for r in range(2)]
    assert [len(p) for p in parts[0]] == [len(p) for p in parts[1]] == [8] * (len(cache) // 16)
    both = np.concatenate(parts[0] + parts[1])
    assert len(set(both)) == len(both)


def test_a_broken_or_unlabelled_frame_is_left_out_and_said(own_set, tmp_path):
    reader = DexYCB(own_set, "s0", "train")
    total = len(reader)
    reader[3].image_path.write_bytes(reader[3].image_path.read_bytes()[:1000])
    path = reader[8].folder / "labels_000000.npz"
    assert reader[8].number == 0
    with np.load(path) as archive:
        found = dict(archive)
    found["joint_3d"][:] = -1
    found["pose_m"][:] = 0
    np.savez_compressed(path, **found)
    config = DataConfig(root=str(own_set), split="s0", crop=SMALL, cache=str(tmp_path))
    loader = make_loader(config, "train", 8, shuffle=False, augment=False, progress=False)
    indices = torch.cat([b.index for b in loader]).tolist()
    assert indices == [i for i in range(total) if i not in (3, 8)]
    report = loader.dataset.cache.report()
    assert "1 left out without a hand's labels" in report
    assert "1 skipped: the picture breaks off before its end" in report
    made = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.bin")}
    make_loader(config, "train", 8, progress=False)
    assert made == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.bin")}  # reused, not made again


def test_contacts_without_a_contact_file_agree_with_the_exact_ones(own_set, tmp_path):
    reader = DexYCB(own_set, "s0", "train")
    exact = build_cache(reader, SMALL, tmp_path / "a", progress=False)
    for path in own_set.rglob("contact.npz"):
        path.unlink()
    derived = build_cache(DexYCB(own_set, "s0", "train"), SMALL, tmp_path / "b", progress=False)
    for name in ("hand_contact", "object_contact"):
        a, b = exact[name][:], derived[name][:]
        both, either = (a & b).sum(), (a | b).sum()
        assert both / either > 0.6, name


@pytest.mark.parametrize("size", [0, 31.5])
def test_a_crop_of_no_whole_size_is_refused(size):
    with pytest.raises(ValueError, match=f"size: a crop needs a whole number of px, at least 1, got {size}"):
        crop_camera(np.eye(3), (0.0, 0.0, 5.0), size)


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        (CropConfig, {"size": 4}, "size"),
        (CropConfig, {"box_scale": 0.5}, "box_scale"),
        (CropConfig, {"margin": 9}, "margin"),
        (CropConfig, {"num_points": 0}, "num_points"),
        (CropConfig, {"size": 112.5}, "size must be a whole number"),
        (CropConfig, {"box_scale": float("nan")}, "box_scale"),
        (AugmentConfig, {"grey": 1.5}, "grey"),
        (AugmentConfig, {"zoom": float("nan")}, "zoom"),
        (AugmentConfig, {"blur": 2}, "blur"),
        (AugmentConfig, {"turn": -1}, "turn"),
        (DataConfig, {"split": "s7"}, "split"),
        (DataConfig, {"workers": -1}, "workers"),
    ],
)
def test_wrong_settings_name_themselves(kind, values, named):
    with pytest.raises(ValueError, match=named):
        kind(**values)


def test_without_a_root_a_set_is_rendered_into_the_users_cache(tmp_path, monkeypatch):
    pytest.importorskip("embreex")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []
    monkeypatch.setattr(
        "amt.data.synthetic.write.write_set", lambda out, config, workers: calls.append((out, config)) or out
    )
    root = DataConfig(render_sequences=3, render_frames=2).root_folder()
    assert root == tmp_path / "amt" / "synthetic-3x2"
    assert (calls[0][1].sequences, calls[0][1].frames, calls[0][1].subjects) == (3, 2, 10)
