"""The exact entropy of attention's weights."""

import math

import pytest
import torch

from amt.kernels.attention import entropy as module
from amt.kernels.attention.entropy import entropy


def by_definition(q, k, scale):
    p = (q.double() @ k.double().mT * scale).softmax(-1)
    return -torch.where(p > 0, p * p.log(), 0.0).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_it_is_the_definition_for_every_query(dtype):
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 5, 8).to(dtype), torch.randn(2, 3, 7, 8).to(dtype)
    found = entropy(q, k, 0.3)
    assert found.shape == (2, 3, 5)
    exact = dtype == torch.float64
    torch.testing.assert_close(found.double(), by_definition(q, k, 0.3), rtol=1e-12 if exact else 1e-5, atol=0)
    torch.testing.assert_close(entropy(q, k), entropy(q, k, 8**-0.5), rtol=0, atol=0)


def test_from_one_key_to_all_keys():
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 6, 8)
    torch.testing.assert_close(entropy(torch.zeros_like(q), k), torch.full((1, 2, 4), math.log(6)))
    assert not entropy(q, k, 1e6).any()  # weights of 0 add nothing
    assert not entropy(q, k[:, :, :1]).any()
    k[..., 0, :] = float("-inf")
    assert entropy(q.abs(), k).isfinite().all()  # a key without weight adds nothing


def test_blocks_of_queries_and_autocast_change_nothing(monkeypatch):
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 9, 8), torch.randn(2, 2, 7, 8)
    whole = entropy(q, k)
    monkeypatch.setattr(module, "SCORES", 30)  # two queries at a time
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(entropy(q, k), whole, rtol=1e-6, atol=0)
    q[1, 1, 3, 0] = float("nan")
    spoiled = entropy(q, k)
    assert spoiled.isnan().sum() == 1
    assert spoiled[1, 1, 3].isnan()


def test_what_it_does_not_take():
    q = torch.randn(1, 2, 3, 8)
    with pytest.raises(ValueError, match="k must hold at least one key, got 0"):
        entropy(q, q[:, :, :0])
    with pytest.raises(ValueError, match=r"entropy: k must have the shape \[1, 2, M, 8\]"):
        entropy(q, q[:, :1])
    with pytest.raises(TypeError, match=r"entropy: k must be torch.float32"):
        entropy(q, q.double())
