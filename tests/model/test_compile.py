"""One graph, the same numbers: torch.compile and torch.export; and a step under bf16 autocast."""

import functools

import pytest
import torch
from torch.utils import _pytree as pytree

from amt.model import AMT, ModelConfig, Prediction
from amt.train.losses import LossConfig, compute_loss


@pytest.fixture(scope="module")
def dinov2():
    """A DINOv2 size cut down to a few blocks and a crop of 56 px."""
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = ModelConfig(
        size="small", crop_size=56, fusion_depth=1, decoder_depth=1, backbone={"depth": 2, "frozen_layers": 1}
    )
    with pytest.warns(UserWarning, match="starts at random"):
        return AMT(config).eval()


def same(a: Prediction, b: Prediction) -> None:
    assert isinstance(b, Prediction)
    for (name, expected), (_, got) in zip(a.named_tensors(), b.named_tensors(), strict=True):
        message = functools.partial("{}: {}".format, name)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4, msg=message)
    assert (a.joints - b.joints).abs().max() < 1e-5  # m


@pytest.mark.slow
@pytest.mark.parametrize("which", ["model", "dinov2"])
def test_one_graph(which, request, make_batch):
    """AOTAutograd traces forward through the ops' fakes; no graph break anywhere."""
    model = request.getfixturevalue(which)
    inputs = make_batch(2, crop=model.config.crop_size, left=True).inputs
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        same(model(inputs), compiled(inputs))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["model", "dinov2"])
def test_export(which, request, make_batch):
    model = request.getfixturevalue(which)
    inputs = make_batch(2, crop=model.config.crop_size, left=True).inputs
    other = make_batch(2, crop=model.config.crop_size, seed=1).inputs
    with torch.no_grad():
        program = torch.export.export(model, (inputs,), strict=False)
        exported = program.module()
        same(model(inputs), exported(inputs))
        same(model(other), exported(other))  # nothing of the first inputs was frozen in


def test_batches_and_predictions_are_trees_of_tensors(make_batch):
    batch = make_batch(2)
    leaves, tree = pytree.tree_flatten(batch)
    assert len(leaves) == len(list(batch.named_tensors()))
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    again = pytree.tree_unflatten(leaves, tree)
    assert type(again) is type(batch)
    assert again.targets.joints is batch.targets.joints


@pytest.mark.parametrize("which", ["tiny", "dinov2"])
def test_a_step_under_bf16_autocast(which, request, make_batch):
    torch.manual_seed(0)
    model = AMT(ModelConfig()) if which == "tiny" else request.getfixturevalue(which)
    batch = make_batch(2, crop=model.config.crop_size, left=True)
    model.train()
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            prediction = model(batch.inputs)
            loss = compute_loss(prediction, batch, LossConfig()).total
        assert all(tensor.dtype == torch.float32 for _, tensor in prediction.named_tensors())
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        model.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad.dtype == torch.float32, name
                assert parameter.grad.isfinite().all(), name
    finally:
        model.eval()
