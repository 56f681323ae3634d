"""normalize as an op: every implementation gives the reference's bits, for planes, interleaved pixels and other strides."""

from __future__ import annotations

import helpers
import pytest
import torch

from amt.kernels import normalize, use
from amt.kernels.normalize import reference

native = helpers.native("normalize")
implementations = pytest.mark.parametrize("runs", helpers.implementations("normalize"), ids=str)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def constants(dtype=torch.float32):
    return torch.tensor([123.7, 116.3, 103.5]).to(dtype), 1 / torch.tensor([58.4, 57.1, 57.4]).to(dtype)


def pictures(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape)))


@implementations
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (1, 63), (5, 16), (17, 31), (224, 224), (0, 4), (4, 0)], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_the_reference_s_bits(runs, dtype, size, batch):
    planes, pixels = pictures(batch, 3, *size), pictures(batch, *size, 3).permute(0, 3, 1, 2)
    mean, scale = constants(dtype)
    with use(runs.name):
        for image in (planes, pixels):
            out = normalize(image, mean, scale)
            assert out.dtype == dtype
            assert out.is_contiguous()
            assert torch.equal(out, (image.to(dtype) - mean[:, None, None]) * scale[:, None, None])


@implementations
def test_every_level_of_every_channel(runs):
    levels = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    mean, scale = constants()
    with use(runs.name):
        assert torch.equal(normalize(levels, mean, scale), reference.normalize(levels, mean, scale))


@implementations
def test_strides_are_free(runs):
    whole, (mean, scale) = pictures(4, 3, 40, 66), constants()
    views = {
        "middle": whole[:, :, 3:-3, 5:-5],
        "middle of pixels": pictures(4, 40, 66, 3)[:, 3:-3, 5:-5].permute(0, 3, 1, 2),
        "transposed": whole.mT,
        "every second": whole[::2, :, ::2, ::2],
        "one channel for all": whole[:, :1].expand(-1, 3, -1, -1),
        "of RGBA": pictures(4, 40, 66, 4)[..., :3].permute(0, 3, 1, 2),
    }
    # constants with strides of their own
    mean, scale = torch.stack([mean, scale], 1).unbind(1)
    with use(runs.name):
        for view in views.values():
            assert torch.equal(normalize(view, mean, scale), reference.normalize(view, mean, scale))


@native
def test_the_same_bits_for_any_number_of_threads():
    image, (mean, scale) = pictures(8, 3, 224, 224), constants()
    many, threads = normalize(image, mean, scale), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(normalize(image, mean, scale), many)
        torch.set_num_threads(3)
        assert torch.equal(normalize(image, mean, scale), many)
    finally:
        torch.set_num_threads(threads)


@native
def test_opcheck_and_compile():
    image, (mean, scale) = pictures(2, 3, 8, 8), constants()
    normalize(image, mean, scale)  # loads the op
    torch.library.opcheck(torch.ops.amt.normalize.default, (image, mean, scale))
    compiled = torch.compile(lambda x: normalize(x, mean, scale) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(image), normalize(image, mean, scale) + 1)


def test_levels_in_floating_point_keep_what_is_no_number():
    image, (mean, scale) = pictures(1, 3, 4, 4).float(), constants()
    image[0, 1, 2, 3] = float("nan")
    found = normalize(image, mean, scale)
    assert torch.equal(found.isnan(), image.isnan())
    assert torch.equal(found.nan_to_num(), ((image - mean[:, None, None]) * scale[:, None, None]).nan_to_num())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": torch.zeros(1, 3, 4, 4, dtype=torch.int32)}, TypeError, r"image must be torch\.uint8 or .*int32"),
        ({"image": pictures(1, 4, 4, 4)}, ValueError, r"image must have the shape \[B, 3, H, W\], got \[1, 4, 4, 4\]"),
        ({"mean": torch.zeros(1, 3, 1, 1)}, ValueError, r"mean must have the shape \[3\]"),
        ({"mean": torch.zeros(3, dtype=torch.int64)}, TypeError, "mean must be torch.float16 or"),
        ({"scale": torch.zeros(3, dtype=torch.float64)}, TypeError, r"scale must be torch\.float32"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    mean, scale = constants()
    with pytest.raises(error, match=message):
        normalize(**{"image": pictures(1, 3, 4, 4), "mean": mean, "scale": scale} | change)


@native
def test_the_raw_op_refuses_what_it_cannot_read():
    image, (mean, scale) = pictures(1, 3, 4, 4), constants()
    normalize(image, mean, scale)
    for arguments, message in (
        ((image.float(), mean, scale), "image must be uint8"),
        ((image[:, :2], mean, scale), "image must have the shape"),
        ((image, mean[:2], scale), "mean must have the shape"),
        ((image, mean, scale.double()), "must have one dtype"),
        ((image, mean.half(), scale.half()), "must be float32 or float64"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.amt.normalize(*arguments)
