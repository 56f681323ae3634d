"""Linear layers with FP8 products: how large their error is, which product is e4m3, and that nothing else changes."""

import pytest
import torch
from helpers import relative_error
from torch import nn

from amt.kernels import fp8_linear
from amt.kernels.fp8_linear import Fp8Linear, convert

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]),
]


def layers(device="cpu", bias=True):
    torch.manual_seed(0)
    exact = nn.Linear(192, 64, bias=bias).to(device)
    ours = nn.Linear(192, 64, bias=bias).to(device)
    ours.load_state_dict(exact.state_dict())
    assert convert(ours, lambda name, layer: True) == [""]
    return exact, ours


@pytest.mark.parametrize("device", DEVICES)
def test_results_and_gradients_have_the_error_of_e4m3(device):
    exact, ours = layers(device)
    x = torch.randn(3, 50, 192, device=device)
    seed = torch.randn(3, 50, 64, device=device)
    results = []
    for layer in (exact, ours):
        inputs = x.clone().requires_grad_()
        out = layer(inputs)
        results.append((out, *torch.autograd.grad(out, (inputs, layer.weight, layer.bias), seed)))
    out, grad_x, grad_weight, grad_bias = (relative_error(b, a) for a, b in zip(*results, strict=True))
    assert 0.01 < out < 0.05
    assert 0.01 < grad_x < 0.05
    assert grad_weight < 1e-6 if device == "cpu" else grad_weight < 1e-2  # not e4m3
    assert grad_bias < 1e-6


def test_scales_follow_rows_so_one_large_token_does_not_cost_the_others():
    exact, ours = layers(bias=False)
    x = torch.randn(10, 192)
    x[3] *= 1e4
    x[4] *= 1e-20
    x[5] = 0
    errors = [relative_error(ours(x)[i], exact(x)[i]) for i in range(10)]
    assert max(errors) < 0.06


def test_nan_stays_in_its_row():
    _, ours = layers()
    x = torch.randn(4, 192)
    expected = ours(x)
    x[2, 7] = float("nan")
    out = ours(x)
    assert out[2].isnan().all()
    assert torch.equal(out[[0, 1, 3]], expected[[0, 1, 3]])


def test_parameters_stay_the_same_objects_and_odd_sizes_stay_as_they_are():
    model = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 33), nn.Linear(33, 48), nn.Linear(48, 16))
    before, names = dict(model.named_parameters()), list(model.state_dict())
    assert convert(model, lambda name, layer: name != "4") == ["0"]
    assert [type(layer) for layer in model] == [Fp8Linear, nn.GELU, nn.Linear, nn.Linear, nn.Linear]
    assert all(before[name] is parameter for name, parameter in model.named_parameters())
    assert list(model.state_dict()) == names
    assert convert(model, lambda name, layer: True) == ["4"]  # what is converted is not converted again


def test_under_autocast_the_result_is_bf16_and_one_dimension_is_enough():
    _, ours = layers()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(torch.randn(5, 192)).dtype == torch.bfloat16
        out = ours(torch.randn(2, 5, 192))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert ours.weight.grad.dtype == torch.float32
    assert ours(torch.randn(192)).shape == (64,)
    assert ours(torch.randn(0, 192)).shape == (0, 64)


def test_it_compiles_in_one_graph():
    _, ours = layers()
    x = torch.randn(4, 192)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), ours(x))


def test_hardware_gets_rows_scales_and_float32_sums(monkeypatch):
    """What the card's product is called with; it runs on the CPU here."""
    calls = []

    def scaled_mm(a, b, scale_a, scale_b, out_dtype, use_fast_accum):
        calls.append(
            (a.dtype, b.dtype, a.stride(1), b.stride(0), scale_a.shape, scale_b.shape, out_dtype, use_fast_accum)
        )
        return (a.float() @ b.float() * scale_a * scale_b).to(out_dtype)

    x, weight = torch.randn(5, 32), torch.randn(16, 32)
    expected = fp8_linear.multiply(x, weight, torch.float32)
    monkeypatch.setattr(fp8_linear, "scaled_mm", scaled_mm)
    monkeypatch.setattr(fp8_linear, "_in_hardware", lambda tensor: True)
    out = fp8_linear.multiply(x, weight, torch.float32)
    e4m3 = torch.float8_e4m3fn
    assert calls == [(e4m3, e4m3, 1, 1, (5, 1), (1, 16), torch.bfloat16, False)]
    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)


def test_torch_func_and_forward_mode_give_the_exact_products_derivatives():
    exact, ours = layers()
    x, tangent = torch.randn(6, 192), torch.randn(6, 192)
    out, moved = torch.func.jvp(ours, (x,), (tangent,))
    assert torch.equal(out, ours(x))
    torch.testing.assert_close(moved, tangent @ exact.weight.t())
    parameters = dict(ours.named_parameters())
    for per_row in torch.func.vmap(
        torch.func.grad(lambda p, row: torch.func.functional_call(ours, p, (row,)).sum()), (None, 0)
    )(parameters, x)["weight"]:
        assert per_row.shape == ours.weight.shape
    grad = torch.func.grad(lambda p: torch.func.functional_call(ours, p, (x,)).sum())(parameters)["weight"]
    torch.testing.assert_close(grad, torch.ones(6, 64).t() @ x)
    torch.testing.assert_close(torch.func.vmap(ours)(x), ours(x))


def test_what_an_exact_layer_refuses_is_refused():
    _, ours = layers()
    with pytest.raises(RuntimeError, match="same dtype"):
        ours(torch.ones(2, 192, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ours(torch.ones(2, 48))


def test_a_layer_on_meta_has_shapes():
    with torch.device("meta"):
        layer = Fp8Linear(32, 48)
        out = layer(torch.empty(3, 32))
    assert (out.shape, out.device.type) == ((3, 48), "meta")


def test_rows_near_the_largest_float32_are_finite():
    """The sums of e4m3 numbers times the scale of such a row would overflow before the weights' scale makes them smaller."""
    _, ours = layers(bias=False)
    x = torch.zeros(2, 192)
    x[0], x[1] = 1e38, torch.finfo(torch.float32).tiny
    out = ours(x)
    assert out.isfinite().all()
    assert relative_error(out, x @ ours.weight.t()) < 0.06
