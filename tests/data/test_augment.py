"""Every augmentation moves image, intrinsics and labels together, and depends on (seed, epoch, index) alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from amt.data import pixels, pixels_cpu
from amt.data.augment import Cuts, change_camera, rotate_targets, vary
from amt.data.backgrounds import read_backgrounds
from amt.data.config import AugmentConfig, CropConfig, DataConfig
from amt.data.draws import draw, uniforms
from amt.data.errors import DataError
from amt.hand.batch import Batch, Inputs, Targets
from amt.hand.camera import crop_camera, project, rotated_crop_camera
from amt.hand.mano import ManoLayer
from amt.hand.shipped import shipped_hand

CROP = CropConfig(size=96, num_points=16, alpha=True)
SIZE, CUT = CROP.size, CROP.cut_size
NOTHING = {
    name: 0.0
    for name, value in vars(AugmentConfig()).items()
    if isinstance(value, float)
}  # fmt: skip
ALONE = {
    "turn": 180.0,
    "zoom": 0.3,
    "shift": 0.1,
    "perspective": 20.0,
    "brightness": 0.35,
    "contrast": 0.25,
    "gamma": 0.25,
    "tint": 0.12,
    "hue": 20.0,
    "blur": 1.0,
    "noise": 8.0,
    "erase": 1.0,
    "grey": 1.0,
    "occlude": 1.0,
    "background": 1.0,
}
GEOMETRIC = ("turn", "zoom", "shift", "perspective")
WAYS = {"torch": pixels.vary, "opencv": pixels_cpu.vary}


def only(*names) -> AugmentConfig:
    return AugmentConfig(**{**NOTHING, **{name: ALONE[name] for name in names}})


@pytest.fixture(scope="module")
def hands() -> Batch:
    """20 posed hands of both sides with an object, seen by cameras with fx != fy; images are filled in by the tests."""
    g = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=g)

    count = 20
    right = torch.arange(count) % 2 == 0
    pose, betas = (rand(count, 48) - 0.5) * 1.2, (rand(count, 10) - 0.5) * 2
    pose[:, :3] *= 4
    where = torch.cat([(rand(count, 2) - 0.5) * 0.5, 0.6 + 0.5 * rand(count, 1)], 1)
    joints, vertices = torch.empty(count, 21, 3), None
    for side, mine in (("right", right), ("left", ~right)):
        mesh = ManoLayer(shipped_hand(side))(pose[mine], betas[mine], where[mine])
        vertices = torch.empty(count, mesh.vertices.shape[1], 3) if vertices is None else vertices
        joints[mine], vertices[mine] = mesh.joints, mesh.vertices
    frame_k = torch.eye(3).repeat(count, 1, 1)
    frame_k[:, 0, 0], frame_k[:, 1, 1] = 500 + 200 * rand(count), 400 + 200 * rand(count)
    frame_k[:, 0, 2], frame_k[:, 1, 2] = 300 + 40 * rand(count), 220 + 40 * rand(count)
    seen = project(joints, frame_k)
    low, high = seen.amin(1), seen.amax(1)
    box = torch.cat([(low + high) / 2, 1.5 * (high - low).amax(1, keepdim=True)], 1)
    wide = box * torch.tensor([1, 1, CUT / SIZE])
    intrinsics, _ = crop_camera(frame_k.double(), wide.double(), CUT)
    valid = torch.ones(count, dtype=torch.bool)
    rotation = torch.linalg.qr(torch.randn(count, 3, 3, generator=g)).Q
    inputs = Inputs(
        image=torch.zeros(count, CUT, CUT, 3, dtype=torch.uint8),
        intrinsics=intrinsics.float(),
        box=box,
        frame_intrinsics=frame_k,
        frame_size=torch.tensor([480.0, 640.0]).repeat(count, 1),
        right=right,
        object_class=torch.ones(count, dtype=torch.int64),
        object_points=rand(count, 16, 3) * 0.1,
    )
    targets = Targets(
        joints=joints,
        pose=pose,
        betas=betas,
        translation=where,
        vertices=vertices,
        object_rotation=rotation * torch.linalg.det(rotation)[:, None, None],
        object_translation=joints.mean(1),
        hand_contact=torch.zeros(count, vertices.shape[1], dtype=torch.bool),
        object_contact=torch.zeros(count, 16, dtype=torch.bool),
        hand_valid=valid,
        object_valid=valid,
        contact_valid=valid,
    )
    return Batch(inputs, targets, torch.arange(100, 100 + count))


def dot(pixel: torch.Tensor, colour=(255, 200, 150), sigma=2.0) -> torch.Tensor:
    """uint8 [B, C, C, 3]: grey, with a coloured dot at ``pixel`` [B, 2]."""
    axis = torch.arange(CUT)
    square = (axis[None, None] - pixel[:, 0, None, None]) ** 2 + (axis[None, :, None] - pixel[:, 1, None, None]) ** 2
    light = torch.exp(-square / (2 * sigma**2))[..., None]
    return (60 + (torch.tensor(colour) - 60) * light).round().to(torch.uint8)


def varied(batch: Batch, images: torch.Tensor, config: AugmentConfig, epoch: int, way: str, pictures=None) -> Batch:
    """The loader's way from cuts to a batch, with one of the two implementations of the pixels."""
    index = batch.index.numpy()
    view, look = draw(config, 7, epoch, index, index, SIZE, 0 if pictures is None else len(pictures))
    inputs, change = change_camera(replace(batch.inputs, image=images), view, SIZE, CUT)
    alpha = None
    if pictures is not None:
        shown = project(batch.targets.vertices, batch.inputs.intrinsics)
        middle = shown.mean(1)
        axis = torch.arange(CUT)
        near = (axis[None, None] - middle[:, 0, None, None]) ** 2 + (
            axis[None, :, None] - middle[:, 1, None, None]
        ) ** 2
        alpha = (near < (0.4 * CUT) ** 2).to(torch.uint8) * 255
    crops = WAYS[way](images, change.warp, look, SIZE, alpha, pictures)
    return Batch(replace(inputs, image=crops), rotate_targets(batch.targets, change), batch.index)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*ALONE, "all"])
def test_a_joint_s_dot_lies_on_the_joint_after_every_augmentation(hands, name, way):
    """The dot of one joint is told from all that the augmentation paints by a second picture without the dot."""
    config = only(*ALONE) if name == "all" else only(name)
    if name == "all":  # a dot must be left to be found
        config = replace(config, turn=40.0, zoom=0.15, blur=0.5, erase=0.3, occlude=0.3)
    pictures = read_backgrounds(None, CUT)[:8] if config.background else None
    cut_pixels = project(hands.targets.joints, hands.inputs.intrinsics)
    blank = torch.full_like(hands.inputs.image, 60)
    found = hidden = 0
    for joint in (0, 4, 8, 9, 12, 20):
        epoch = joint + 1
        marked = varied(hands, dot(cut_pixels[:, joint]), config, epoch, way, pictures)
        empty = varied(hands, blank, config, epoch, way, pictures)
        light = (marked.inputs.image.float() - empty.inputs.image.float()).abs().sum(1)
        wanted = project(marked.targets.joints, marked.inputs.intrinsics)[:, joint]
        axis = torch.arange(SIZE)
        for weight, pixel in zip(light, wanted):
            weight = torch.where(weight > 0.1 * weight.max(), weight, 0)
            if not (pixel.min() > 8 and pixel.max() < SIZE - 9) or weight.max() < 60:
                hidden += 1  # at the rim, outside, or behind an occluder
                continue
            total = weight.sum()
            centre = torch.stack([(weight.sum(0) * axis).sum(), (weight.sum(1) * axis).sum()]) / total
            covered = config.erase or config.occlude
            if covered and total < 0.9 * light.sum((1, 2)).median():
                hidden += 1  # half a dot has its centre elsewhere
                continue
            found += 1
            assert (centre - pixel).abs().max() <= 0.5, (name, joint, centre, pixel)
    assert found > (40 if name in ("erase", "occlude", "all") else 90), (found, hidden)


@pytest.mark.parametrize("name", [*GEOMETRIC, "all"])
def test_the_labels_are_still_one_hand_one_object_and_one_camera(hands, name):
    config = only(*GEOMETRIC) if name == "all" else only(name)
    batch = varied(hands, hands.inputs.image, config, 3, "opencv")
    i, t = batch.inputs, batch.targets
    for side, mine in (("right", i.right), ("left", ~i.right)):
        mesh = ManoLayer(shipped_hand(side))(t.pose[mine], t.betas[mine], t.translation[mine])
        torch.testing.assert_close(mesh.joints, t.joints[mine], atol=5e-6, rtol=0)
        torch.testing.assert_close(mesh.vertices, t.vertices[mine], atol=5e-6, rtol=0)

    def gaps(one: Batch):
        posed = one.inputs.object_points @ one.targets.object_rotation.mT + one.targets.object_translation[:, None]
        return torch.cdist(one.targets.joints.double(), posed.double())

    torch.testing.assert_close(gaps(batch), gaps(hands), atol=2e-6, rtol=0)
    moved = (t.joints - hands.targets.joints).abs().max()
    assert moved > 0.02 if name in ("turn", "perspective", "all") else moved < 1e-6
    # fx : fy is the sensor's, and the box is where the crop looks in the picture that the rotated camera would have taken
    ratio, frame = i.intrinsics[:, 0, 0] / i.intrinsics[:, 1, 1], i.frame_intrinsics
    torch.testing.assert_close(ratio, frame[:, 0, 0] / frame[:, 1, 1])
    assert (frame[:, 0, 0] / frame[:, 1, 1] - 1).abs().max() > 0.1
    in_frame, in_crop = project(t.joints, frame), project(t.joints, i.intrinsics)
    scale = i.box[:, None, 2:] / SIZE
    back = (in_crop - (SIZE - 1) / 2) * scale + i.box[:, None, :2]
    torch.testing.assert_close(back, in_frame, atol=0.02, rtol=0)


def test_a_tilted_camera_keeps_the_box_s_area():
    """One pixel more to each side at the box's centre covers the area that the zoom says, however oblique the view."""
    k = torch.tensor([[610.0, 0, 320], [0, 480.0, 240], [0, 0, 1]]).double().repeat(3, 1, 1)
    box = torch.tensor([[100.0, 90, 120], [320, 240, 200], [560, 400, 80]]).double()
    a = torch.tensor(0.4).double()
    tilt = torch.tensor([[a.cos(), 0, a.sin()], [0, 1, 0], [-a.sin(), 0, a.cos()]]).double().repeat(3, 1, 1)
    _, warp = rotated_crop_camera(k, box, 64, tilt)

    def through(pixel):
        x = torch.cat([pixel, torch.ones(3, 1)], 1).double()
        y = (warp @ x[..., None])[..., 0]
        return y[:, :2] / y[:, 2:]

    centre = box[:, :2]
    torch.testing.assert_close(through(centre), torch.full((3, 2), 31.5).double())
    step = 1e-4
    dx = (through(centre + torch.tensor([step, 0])) - through(centre)) / step
    dy = (through(centre + torch.tensor([0, step])) - through(centre)) / step
    area = (dx[:, 0] * dy[:, 1] - dx[:, 1] * dy[:, 0]).abs()
    torch.testing.assert_close(area, (64 / box[:, 2]) ** 2, rtol=1e-4, atol=0)
    flat = rotated_crop_camera(k, box, 64, torch.eye(3).double().repeat(3, 1, 1))
    torch.testing.assert_close(flat[0], crop_camera(k, box, 64)[0])
    back = torch.diag(torch.tensor([-1.0, 1, -1])).double().repeat(3, 1, 1)
    with pytest.raises(ValueError, match="rotation: the rotated camera does not see the box"):
        rotated_crop_camera(k, box, 64, back)


@pytest.mark.parametrize("name", [*ALONE, "defaults"])
def test_both_implementations_show_the_same_pixels(hands, name):
    config = AugmentConfig() if name == "defaults" else only(name)
    pictures = read_backgrounds(None, CUT)[:8] if config.background else None
    images = read_backgrounds(None, CUT)[torch.arange(len(hands.index)) % 64]
    a, b = (varied(hands, images, config, 5, way, pictures).inputs.image.float() for way in WAYS)
    difference = (a - b).abs()
    assert difference.mean() < 0.5  # grey levels
    assert (difference > 3).float().mean() < 2e-3


def test_a_sample_looks_the_same_in_every_batch_and_differs_between_epochs(hands):
    images = read_backgrounds(None, CUT)[torch.arange(len(hands.index))]
    config = replace(AugmentConfig(), perspective=10, occlude=0.5)
    for way in WAYS:
        whole = varied(hands, images, config, 2, way)
        some = torch.tensor([11, 3, 17])
        part = varied(hands[some], images[some], config, 2, way)
        for (name, x), (_, y) in zip(whole[some].named_tensors(), part.named_tensors(), strict=True):
            assert torch.equal(x, y), (way, name)
        other = varied(hands, images, config, 3, way)
        assert not torch.equal(whole.inputs.image, other.inputs.image)


def test_draws_are_uniform_independent_and_of_any_seed():
    index = np.arange(20_000)
    u = uniforms(3, 1, index, 8)
    assert u.min() >= 0
    assert u.max() < 1
    np.testing.assert_allclose(u.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(u.var(0), 1 / 12, atol=0.002)
    others = [uniforms(*key, index, 8) for key in ((3, 2), (4, 1), (2**70, 1), (3, 2**40))]
    for other in (u[:, ::-1], np.roll(u, 1, 0), *others):
        correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(u.T, other.T)]
        assert np.abs(correlation).max() < 0.03
    np.testing.assert_array_equal(uniforms(2**70, 5, index[7:9], 3), uniforms(2**70, 5, index, 3)[7:9])


def test_shares_and_ranges_are_what_the_settings_say():
    index = np.arange(4000)
    config = AugmentConfig(occlude=0.3, perspective=10, background=0.5)
    view, look = draw(config, 0, 0, index, index, 112, backgrounds=5)
    tilt = torch.rad2deg(torch.acos(view.rotation[:, 2, 2]))
    assert 12 < tilt.max() <= 10 * 2**0.5 + 0.1
    assert view.shift.abs().max() <= 0.08
    torch.testing.assert_close(view.zoom.max().log2(), torch.tensor(0.15).double(), atol=1e-3, rtol=0)
    for chosen, share in (
        (look.sigma > 0, 0.25),
        (look.erased[:, 2] > look.erased[:, 0], 0.25),
        (look.grey, 0.05),
        (look.occluder[:, 2] > 0, 0.3),
        (look.background >= 0, 0.5),
    ):
        assert abs(chosen.float().mean() - share) < 0.03
    assert look.noise.max() <= 8
    assert set(look.background.tolist()) == {-1, 0, 1, 2, 3, 4}
    nothing = draw(only(), 0, 0, index, index, 112)[1]
    assert {name for name, value in vars(nothing).items() if value is not None} == {"curves"}
    assert (nothing.curves == torch.arange(256)).all()


def test_loose_squares_are_a_share_of_the_samples_and_change_no_other_draw():
    index = np.arange(4000)
    tight, loose = (draw(AugmentConfig(loose=share), 3, 0, index, index, 112)[0] for share in (0.0, 0.25))
    changed = (tight.shift != loose.shift).any(1)
    assert float(changed.double().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(changed, tight.zoom != loose.zoom)
    assert torch.equal(tight.rotation, loose.rotation)
    torch.testing.assert_close(loose.shift[changed], tight.shift[changed] * 0.3 / 0.08)
    torch.testing.assert_close(loose.zoom[changed].log2(), tight.zoom[changed].log2() * 0.6 / 0.15)
    assert float(loose.shift.abs().max()) == pytest.approx(0.3, abs=0.01)


def test_grey_is_a_share_of_the_samples_and_changes_no_other_draw(hands):
    images = read_backgrounds(None, CUT)[torch.arange(len(hands.index))]
    none, all_ = (varied(hands, images, AugmentConfig(grey=s), 0, "opencv").inputs.image.float() for s in (0, 1))
    assert (all_ == all_[:, :1]).all()
    grey = torch.einsum("c,bcyx->byx", torch.tensor(pixels.GREY), none)
    assert (all_[:, 0] - grey).abs().max() <= 1
    some = varied(hands, images, AugmentConfig(grey=0.3), 0, "opencv").inputs.image.float()
    for mixed, a, b in zip(some, none, all_):
        assert torch.equal(mixed, a) or torch.equal(mixed, b)


def test_what_is_behind_the_hand_is_replaced_and_the_hand_is_not(hands):
    images = torch.full_like(hands.inputs.image, 200)
    alpha = torch.zeros(len(images), CUT, CUT, dtype=torch.uint8)
    alpha[:, CUT // 2 - 10 : CUT // 2 + 10, CUT // 2 - 10 : CUT // 2 + 10] = 255
    pictures = torch.full((3, CUT, CUT, 3), 17, dtype=torch.uint8)
    index = hands.index.numpy()
    view, look = draw(only("background"), 0, 0, index, index, SIZE, 3)
    inputs, change = change_camera(replace(hands.inputs, image=images), view, SIZE, CUT)
    middle = SIZE // 2
    for device_way in (pixels.vary, pixels_cpu.vary):
        crops = device_way(images, change.warp, look, SIZE, alpha, pictures)
        assert (crops[:, :, middle - 8 : middle + 8, middle - 8 : middle + 8] == 200).all()
        assert (crops[:, :, :20] == 17).all()
    cuts = Cuts(
        replace(hands, inputs=inputs), hands.index, alpha, change, replace(look, background=look.background * 0 - 1)
    )
    assert (vary(cuts, SIZE, pictures).inputs.image == 200).all()


@pytest.mark.parametrize("name", ["erase", "occlude"])
def test_a_joint_under_what_was_painted_is_not_visible(hands, name):
    """The painted pixels are told by their colour; the label says the same at every joint."""
    images = torch.full_like(hands.inputs.image, 60)
    seen = replace(hands.targets, joint_visible=torch.ones(len(hands.index), 21, dtype=torch.bool))
    index = hands.index.numpy()
    view, look = draw(replace(only(name), **{name: 0.8}), 0, 1, index, index, SIZE)
    inputs, change = change_camera(replace(hands.inputs, image=images), view, SIZE, CUT)
    cuts = Cuts(Batch(inputs, seen, hands.index), hands.index, None, change, look)
    batch = vary(cuts, SIZE)
    painted = (batch.inputs.image != 60).any(1)
    x, y = project(batch.targets.joints, batch.inputs.intrinsics).round().long().unbind(-1)
    inside = (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE)
    covered = painted[torch.arange(len(index))[:, None], y.clamp(0, SIZE - 1), x.clamp(0, SIZE - 1)]
    agree = (batch.targets.joint_visible != covered)[inside]
    assert agree.float().mean() > 0.98  # not all: edges are soft, and a stripe may have the picture's own grey
    assert 10 < covered[inside].sum() < inside.sum() - 20


def test_backgrounds_come_from_a_folder(tmp_path):
    import cv2

    (tmp_path / "deep").mkdir()
    cv2.imwrite(str(tmp_path / "deep" / "a.png"), np.full((40, 90, 3), (1, 2, 3), np.uint8))
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    pictures = read_backgrounds(str(tmp_path), 24)
    assert pictures.shape == (1, 24, 24, 3)
    assert pictures[0, 5, 5].tolist() == [3, 2, 1]
    (tmp_path / "deep" / "a.png").unlink()
    with pytest.raises(DataError, match=r"data\.augment\.backgrounds: .* holds no picture"):
        read_backgrounds(str(tmp_path), 24)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"perspective": 31}, "perspective"), ({"occlude": 2}, "occlude"), ({"background": -1}, "background")],
)
def test_wrong_settings_of_variation_name_themselves(settings, named):
    with pytest.raises(ValueError, match=named):
        AugmentConfig(**settings)


def test_backgrounds_without_segmentation_in_the_cache_are_refused():
    with pytest.raises(ValueError, match=r"data\.crop\.alpha=true"):
        DataConfig(augment=AugmentConfig(background=0.5))
