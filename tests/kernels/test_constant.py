"""Constants are uploaded once, and one that inference made first serves training."""

import torch

from amt.kernels.constant import constant, places


def test_the_same_tensor_for_the_same_numbers_dtype_and_device():
    x = torch.zeros(2, 3)
    signs = constant((-1, 1, 1), x)
    assert torch.equal(signs, torch.tensor([-1.0, 1, 1]))
    assert constant((-1, 1, 1), x.half()).dtype == torch.float16
    assert constant(((True, False),), x, torch.bool).tolist() == [[True, False]]
    assert constant((-1, 1, 1), torch.ones(5)) is signs
    assert constant((-1, 1, 1), x.double()) is not signs
    assert constant((-1, 1, 1), x.to("meta")).device.type == "meta"
    assert x[:, places((2, 0), x)].shape == (2, 2)


def test_made_in_inference_mode_it_can_be_saved_for_a_gradient():
    with torch.inference_mode():
        signs = constant((3, 5, 7), torch.zeros(3))
    x = torch.ones(3, requires_grad=True)
    (x * signs).sum().backward()
    assert x.grad.tolist() == [3, 5, 7]
    assert not signs.is_inference()


def test_nothing_of_a_fake_tensor_stays():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        fake = constant((2, 4, 6), mode.from_tensor(torch.zeros(3)))
    assert type(fake) is not torch.Tensor
    assert type(constant((2, 4, 6), torch.zeros(3))) is torch.Tensor


def test_compiled_and_exported_code_holds_its_own():
    class Mirror(torch.nn.Module):
        def forward(self, points):
            return points[:, places((1, 0), points)] * constant((-1, 1, 9), points)

    points = torch.randn(4, 2, 3)
    expected = Mirror()(points)
    exported = torch.export.export(Mirror(), (points,))
    assert torch.equal(exported.module()(points), expected)
    assert torch.equal(torch.compile(Mirror(), backend="eager", fullgraph=True)(points), expected)
    assert torch.equal(torch.jit.trace(Mirror(), points)(points), expected)
