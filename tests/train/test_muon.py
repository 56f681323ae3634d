"""Muon: orthogonal updates, as PyTorch's own makes them, for the weights that are meant."""

import pytest
import torch
from torch import nn

from amt.model import AMT
from amt.model.config import ModelConfig
from amt.train import muon
from amt.train.config import TrainConfig
from amt.train.muon import UPDATE_RMS, Muon, orthogonalized
from amt.train.optimizers import hidden_weights, make_optimizers


@pytest.mark.parametrize(("rows", "columns"), [(40, 40), (24, 216), (216, 24)])
def test_singular_values_come_to_about_one(rows, columns):
    torch.manual_seed(0)
    matrices = torch.randn(5, rows, columns) * torch.logspace(-6, 6, 5)[:, None, None]
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    made = orthogonalized(matrices)
    values = torch.linalg.svdvals(made)
    # random matrices that are square have singular values near 0, which five rounds do not lift all the way
    assert values.max() < 1.25
    assert values.quantile(0.1) > 0.6
    likeness = torch.nn.functional.cosine_similarity(made.flatten(1), (u @ v).flatten(1))
    assert likeness.min() > 0.97


def test_zeros_stay_zeros():
    assert not orthogonalized(torch.zeros(2, 8, 16)).any()
    assert not orthogonalized(torch.zeros(2, 8, 72)).any()


def test_rounds_on_the_square_are_the_same_rounds(monkeypatch):
    """Wide matrices of few directions and many scales: the cheaper order loses nothing."""
    torch.manual_seed(0)
    matrices = torch.randn(3, 48, 16) * torch.logspace(0, -5, 16) @ torch.randn(3, 16, 432)
    cheaper = orthogonalized(matrices)
    monkeypatch.setattr(muon, "MUCH_WIDER", 1000)
    assert (cheaper - orthogonalized(matrices)).norm() < 1e-3 * cheaper.norm()


def test_it_is_pytorchs_own_but_for_bfloat16():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.randn(32, 48, generator=torch.Generator().manual_seed(1))) for _ in range(2))
    start = ours.detach().clone()
    a = Muon([ours], lr=0.01, weight_decay=0.1)
    b = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(32, 48)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    moved = (ours - start).norm()
    assert moved > 0.1
    assert (ours - theirs).norm() < 0.02 * moved


def test_products_in_bfloat16_give_nearly_the_same():
    torch.manual_seed(0)
    for shape in ((4, 64, 64), (2, 32, 288), (2, 288, 32)):
        matrices = torch.randn(shape)
        whole, rounded = orthogonalized(matrices), orthogonalized(matrices, bfloat16=True)
        assert rounded.dtype == torch.float32
        assert 0 < (whole - rounded).norm() < 0.1 * whole.norm()  # the rounds themselves leave 0.7 to 1.2 for 1


def test_a_kernel_moves_as_its_matrix_does():
    torch.manual_seed(0)
    kernel, matrix = nn.Parameter(torch.zeros(16, 8, 3, 3)), nn.Parameter(torch.zeros(16, 72))
    kernel.grad = torch.randn(16, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    matrix.grad = kernel.grad.flatten(1)
    Muon([kernel, matrix], lr=0.5).step()
    assert torch.equal(kernel.flatten(1), matrix)
    assert matrix.square().mean().sqrt().item() == pytest.approx(0.5 * UPDATE_RMS, rel=0.15)


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match=r"matrices and kernels, got a parameter of shape \[7\]"):
        Muon([nn.Parameter(torch.zeros(7))], lr=1e-3)


def test_every_weight_has_one_optimizer():
    with torch.device("meta"):
        model = AMT(ModelConfig(size="tiny"))
    model.coarse_decoder.queries.requires_grad_(False)
    adamw, other = make_optimizers(model, TrainConfig())
    given = [p for o in (adamw, other) for group in o.param_groups for p in group["params"]]
    assert len(given) == len({id(p) for p in given})
    assert {id(p) for p in given} == {id(p) for p in model.parameters() if p.requires_grad}
    names = {id(p): name for name, p in model.named_parameters()}
    hidden = {names[id(p)] for group in other.param_groups for p in group["params"]}
    assert {"backbone.stages.1.0.0.weight", "backbone.blocks.0.attention.q.weight", "neck.low.weight"} <= hidden
    assert not [name for name in hidden if "head" in name or "embedding" in name or "stages.0." in name]
    assert [o.__class__ for o in make_optimizers(model, TrainConfig(optimizer="adamw"))] == [torch.optim.AdamW]


def test_a_pretrained_backbone_stays_with_adamw():
    with torch.device("meta"):
        model = AMT(ModelConfig(size="small", backbone={"name": "dinov2-small", "depth": 2}))
    backbone = {id(p) for p in model.backbone.parameters()}
    hidden = hidden_weights(model)
    assert hidden
    assert not [p for p in hidden if id(p) in backbone]
