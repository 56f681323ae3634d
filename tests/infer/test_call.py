"""``predictor(...)``: pictures of any kind, one or many, several hands, lenses, unknown cameras, threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from amt.hand.mano import ManoLayer
from amt.hand.shipped import shipped_hand
from amt.infer.arrays import as_picture
from amt.infer.checks import InputError
from amt.infer.lens import Lens, project_through
from amt.infer.predictor import Predictor
from amt.infer.result import Result

HEIGHT, WIDTH = 240, 320
K = np.array([[310.0, 0, 158.0], [0, 305.0, 121.0], [0, 0, 1]])
BOX = (180.0, 110.0, 120.0)
LENSES = {"brown": (-0.28, 0.09, 0.001, -0.002), "fisheye": ("fisheye", (0.06, -0.02, 0.006, -0.001))}


def kinds(photo):
    rgba = np.dstack((photo, np.full(photo.shape[:2], 7, np.uint8)))
    chw = torch.from_numpy(photo).permute(2, 0, 1)
    return {
        "float32": photo.astype(np.float32) / 255, "float64": photo / 255.0, "rgba": rgba, "tensor": chw,
        "tensor HWC": torch.from_numpy(photo),
        "float tensor": chw.float() / 255, "float tensor HWC": torch.from_numpy(photo / 255.0), "pil": Image.fromarray(photo),
        "pil rgba": Image.fromarray(rgba), "strided": np.concatenate((photo, photo), 1)[:, :WIDTH]
    }  # fmt: skip


def test_pictures_of_every_kind_are_the_same_picture(photo):
    for name, given in kinds(photo).items():
        np.testing.assert_array_equal(as_picture(given), photo, err_msg=name)
    grey = photo[..., 0]
    expected = np.repeat(grey[..., None], 3, 2)
    for given in (
        grey,
        np.asmatrix(grey),
        grey[..., None],
        torch.from_numpy(grey),
        torch.from_numpy(grey)[None],
        Image.fromarray(grey),
    ):
        np.testing.assert_array_equal(as_picture(given), expected)
    deep = Image.fromarray(grey.astype(np.uint16) << 8)
    np.testing.assert_array_equal(as_picture(deep), expected)


def test_a_pil_image_is_turned_as_exif_says(photo):
    picture = Image.fromarray(photo)
    picture.getexif()[0x0112] = 6  # to be shown after a quarter turn clockwise
    np.testing.assert_array_equal(as_picture(picture), np.rot90(photo, -1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full((9, 9, 3), np.nan), "float64 .* not finite; repair"),
        (np.full((9, 9, 3), np.inf, np.float32), "not finite"),
        (np.full((9, 9, 3), 200.0), "values from 200 to 200; floats must lie in 0-1, divide by 255"),
        (np.zeros((9, 9, 3), np.int32), r"got int32 \[9, 9, 3\]"),
        (np.zeros((9, 9, 3), np.uint16), r"got uint16 \[9, 9, 3\]"),
        (np.zeros((9, 9, 3), bool), "got bool"),
        (np.zeros((9, 9, 5), np.uint8), r"got uint8 \[9, 9, 5\]"),
        (np.zeros(9, np.uint8), r"got uint8 \[9\]"),
        (np.zeros((0, 0, 3)), r"at least 8 x 8 pixels, got \[0, 0, 3\]"),
        (np.zeros((1, 1, 3), np.uint8), r"at least 8 x 8 pixels, got \[1, 1, 3\]"),
        (torch.zeros(3, 9, 9).to_sparse(), "dense tensor, got layout torch.sparse_coo"),
        (torch.zeros(3, 9, 9, device="meta"), "got a tensor of torch.float32 on meta"),
        (torch.quantize_per_tensor(torch.zeros(3, 9, 9), 1 / 255, 0, torch.quint8), "got a tensor of torch.quint8 on cpu"),
        (np.full((9, 9, 3), 1.0000001), "values from 1.0000001 to 1.0000001; floats must lie in 0-1"),
        (Image.new("F", (9, 9)), "mode 'F'"),
        ("a.jpg", "or a PIL image; got str"),
        (None, "got NoneType"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_one_line(predictor, given, message):
    with pytest.raises(InputError, match=f"image: .*{message}") as told:
        predictor(given)
    assert "\n" not in str(told.value)


@pytest.fixture(scope="module")
def seen(predictor, photo) -> Result:
    return predictor(photo, K, BOX)


def test_many_images_give_a_list(predictor, photo, seen):
    wide = np.ascontiguousarray(photo[:200])
    for images in ([photo, Image.fromarray(wide)], [torch.from_numpy(photo).permute(2, 0, 1), wide / 255.0]):
        first, second = predictor(images, K, [BOX, (90, 100, 80)], ["right", "left"])
        np.testing.assert_allclose(first.joints, seen.joints, atol=2e-5)
        assert second.side == "left"
    batch = np.stack((photo, photo))
    for images in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2)):
        answers = predictor(images, np.stack((K, K)), np.array((BOX, BOX)))
        assert len(answers) == 2
        np.testing.assert_allclose(answers[1].joints, seen.joints, atol=2e-5)
    assert predictor([], K) == []


def test_several_hands_in_one_call(predictor, photo, seen):
    other = (90.0, 100.0, 80.0)
    left = predictor(photo, K, other, "left")
    found = [SimpleNamespace(box=BOX, side="right"), SimpleNamespace(box=other, side="left")]
    for boxes, side in (
        ([BOX, other], ["right", "left"]),
        (torch.tensor((BOX, other)), ("right", "left")),
        (found, None),
    ):
        hands = predictor(photo, K, boxes, side)
        assert [hand.side for hand in hands] == ["right", "left"]
        np.testing.assert_allclose(hands[0].joints, seen.joints, atol=2e-5)
        np.testing.assert_allclose(hands[1].joints, left.joints, atol=2e-5)
    assert predictor(photo, K, found[1]).side == "left"
    assert predictor(photo, K, []) == []
    many = predictor([photo, photo, photo], K, [[BOX, other], BOX, []], [["right", "left"], None, None])
    assert [type(answer) for answer in many] == [list, Result, list]
    assert [len(many[0]), len(many[2])] == [2, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": [BOX, BOX], "side": ["right"]}, "side: expected one for each of the 2 boxes, got 1"),
        ({"boxes": BOX, "side": ["right"]}, "side: expected 'right' or 'left' for one hand"),
        ({"boxes": 7}, r"boxes: expected \(cx, cy, side\)"),
        ({"boxes": BOX, "box": BOX}, "box: stands for boxes"),
        ({"boxes": [BOX, (900, 1, 50)]}, "box: .*lies outside the picture"),
        ({"distortion": (1, 2)}, "distortion: expected"),
        ({"intrinsics": (1, 2)}, r"intrinsics: expected \[3, 3\]"),
    ],
)
def test_arguments_that_do_not_fit_are_named(predictor, photo, arguments, message):
    with pytest.raises(InputError, match=message):
        predictor(photo, **({"intrinsics": K} | arguments))
    with pytest.raises(InputError, match="boxes: expected one for each of the 2 images, got 1"):
        predictor([photo, photo], K, [BOX])
    with pytest.raises(InputError, match="intrinsics: expected one for each of the 2 images, got 3"):
        predictor([photo, photo], [K, K, K])


def test_each_joint_has_its_visibility_and_its_sigma(predictor, seen):
    for values in (seen.visibility, seen.sigma_mm):
        assert (values.shape, values.dtype) == ((21,), np.float32)
    assert ((seen.visibility >= 0) & (seen.visibility <= 1)).all()
    assert (seen.sigma_mm > 0).all()
    record = seen.record()
    assert len(record["visibility"]) == len(record["sigma_mm"]) == 21
    # an untrained map covers its crop evenly: a standard deviation of side / sqrt(12)
    px = BOX[2] / np.sqrt(12)
    np.testing.assert_allclose(seen.sigma_mm, 1000 * px * seen.joints[:, 2] / np.sqrt(310 * 305), rtol=0.1)


def test_an_unknown_camera_is_assumed_and_said(predictor, photo, seen):
    assert seen.intrinsics_assumed is None
    assumed = predictor(photo, boxes=BOX)
    assert assumed.intrinsics_assumed == assumed.record()["intrinsics_assumed_deg"] == 75
    focal = np.hypot(HEIGHT, WIDTH) / 2 / np.tan(np.radians(37.5))
    np.testing.assert_allclose(np.diag(assumed.intrinsics), (focal, focal, 1), rtol=1e-6)


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_hand_behind_a_lens_is_consistent(predictor, photo, points, name, side):
    """Pixels, parameters, mesh and object agree in the camera of the distorted picture."""
    seen = predictor(photo, K, (250, 60, 90), side, points, LENSES[name])
    assert isinstance(seen.lens, Lens)
    np.testing.assert_allclose(seen.joints_2d, project_through(seen.joints, K, seen.lens), atol=1e-3)
    assert np.abs(seen.joints_2d[0] - (250, 60)).max() < 150
    layer = ManoLayer(shipped_hand(side))
    mesh = layer(*(torch.from_numpy(a)[None] for a in (seen.pose, seen.betas, seen.translation)))
    assert np.abs(mesh.joints[0].numpy() - seen.mano_joints).max() <= 2e-5
    assert np.abs(mesh.vertices[0].numpy() - seen.mano_vertices).max() <= 2e-5
    np.testing.assert_allclose(seen.object_rotation @ seen.object_rotation.T, np.eye(3), atol=1e-5)
    assert seen.record()["distortion"]["model"] == name


def test_a_lens_that_hardly_bends_changes_hardly_anything(predictor, photo, seen):
    bent = predictor(photo, K, BOX, distortion=(1e-7, 0, 0, 0))
    assert np.abs(bent.joints - seen.joints).max() < 0.01  # m; the crop's pixels are square, K's are not quite


def test_threads_get_what_one_thread_gets(unsure_checkpoint, photo):
    import amt

    shared = amt.load(unsure_checkpoint, "cpu")
    boxes = [(60 + 12 * i, 120.0, 90 + 3 * i) for i in range(16)]
    alone = [shared(photo, K, box, "left" if i % 2 else "right") for i, box in enumerate(boxes)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            found = pool.map(lambda i: shared(photo, K, boxes[i], "left" if i % 2 else "right"), range(16))
            for one, other in zip(alone, found):
                np.testing.assert_array_equal(one.joints, other.joints)
                np.testing.assert_array_equal(one.vertices, other.vertices)


def test_load_without_a_package_is_one_line(checkpoint):
    code = f"""
import sys
sys.modules["safetensors"] = None
import amt
try:
    amt.load({str(checkpoint)!r})
except Exception as error:
    print(type(error).__name__, error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.stdout.splitlines() == [
        "UserError amt.load: the package safetensors is not installed; pip install -e . brings it"
    ], ran.stderr


def test_a_first_answer_loads_only_what_it_needs(checkpoint):
    """A look into sys.modules: together these take as long to load as PyTorch."""
    code = f"""
import sys
import numpy as np
import amt, amt.infer.run, amt.infer.job
from amt.draw.paint import text_width
amt.load({str(checkpoint)!r})(np.zeros((120, 160, 3), np.uint8), boxes=(80.0, 60.0, 90.0))
assert text_width("0.4 m") > 0
print(*sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    loaded = {name.partition(".")[0] for name in ran.stdout.split()} | set(ran.stdout.split())
    assert "amt" in loaded, ran.stderr
    assert (
        not {"torch._dynamo", "torch._inductor", "triton", "sympy", "scipy", "matplotlib", "trimesh", "roma"} & loaded
    )


def test_out_of_memory_halves_the_batch_once(predictor, photo, monkeypatch):
    """The batch that does not fit is done in halves; a half that does not fit either is an error."""
    limit, sizes = {"at": 4}, []

    class Narrow(torch.nn.Module):
        config, mano = predictor.model.config, predictor.model.mano

        def forward(self, inputs):
            sizes.append(inputs.batch_size)
            if inputs.batch_size > limit["at"]:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return predictor.model(inputs)

    small = Predictor(Narrow(), predictor.record, "cpu", batch_size=8)
    with pytest.warns(UserWarning, match="memory of cpu does not hold 8 crops at once; it goes on with 4"):
        results = small([photo] * 8, K, [BOX] * 8)
    assert (len(results), sizes, small.batch_size) == (8, [8, 4, 4], 4)
    limit["at"] = 1
    with pytest.raises(RuntimeError, match="can't allocate"):
        small([photo] * 8, K, [BOX] * 8)
