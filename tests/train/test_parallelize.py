"""Recomputed and compiled blocks: the same gradients, less memory; and the estimate of a step's memory."""

import functools
import warnings

import pytest
import torch

from amt.model import AMT, ModelConfig
from amt.train.config import TrainConfig
from amt.train.memory import activation_bytes
from amt.train.parallelize import apply_checkpointing, transformer_blocks
from amt.train.trainer import Trainer

DROPS = {"drop_path": 0.3}  # random numbers that a second forward must draw again


def gradients(config, batch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that DINOv2 starts at random does not matter here
        trainer = Trainer(config)
    trainer.train_step(batch)
    return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputing_changes_no_gradient(make_small, small_loader, mode):
    batch = next(iter(small_loader))
    kept, again = (gradients(make_small("g", checkpointing=m, model=DROPS), batch) for m in ("none", mode))
    assert kept.keys() == again.keys()
    assert [name for name in kept if not torch.equal(kept[name], again[name])] == []


def test_recomputing_dinov2_changes_no_gradient(make_small, make_batch):
    backbone = {"name": "dinov2-small", "depth": 3, "frozen_layers": 1}
    options = {"batch_size": 2, "model": {"backbone": backbone, "crop_size": 28, **DROPS}}
    batch = make_batch(2, crop=28)
    kept, again = (gradients(make_small("g", checkpointing=m, **options), batch) for m in ("none", "selective"))
    assert [name for name in kept if not torch.equal(kept[name], again[name])] == []


def made(size, mode):
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = AMT(ModelConfig(size=size))
    apply_checkpointing(model, TrainConfig(checkpointing=mode))
    return model


def test_selective_checkpointing_halves_the_activations():
    """Of size small, whole: blocks and all that stands around them."""
    none, selective, full = (activation_bytes(made("small", mode)) for mode in ("none", "selective", "full"))
    assert selective <= 0.5 * none
    assert full < selective


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp8"])
def test_the_estimate_of_activations_is_what_a_pass_keeps(make_small, make_batch, precision):
    """Counted on fakes, and by PyTorch's hooks on what a real pass saves: the same storages but for the answer itself."""
    trainer = Trainer(make_small("m", precision=precision))
    model, batch = trainer.model.train(), make_batch(4, crop=32, points=trainer.config.data.crop.num_points)
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    saved = {}

    def note(tensor):
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    bf16 = precision != "float32"
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        prediction = model(batch.inputs)
    held = dict(saved)
    for _, tensor in prediction.named_tensors():
        held[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
    real = sum(storage.nbytes() for place, storage in held.items() if place not in own)
    assert trainer.memory().activations == pytest.approx(real, rel=0.02)
    assert model.training


def test_the_memory_of_a_step_is_told(make_small):
    trainer = Trainer(make_small("m", optimizer="adamw", accumulate=2, ema=0.5))
    memory = trainer.memory()
    parameters = 4 * sum(p.numel() for p in trainer.model.parameters())
    assert memory.gradients == parameters
    assert memory.moments == 2 * parameters
    assert parameters <= memory.average <= memory.weights
    assert memory.images == 2
    assert str(memory).startswith("memory of a step: about 0.")
    assert Trainer(make_small("m", ema=0.0)).memory().average == 0


def test_compiled_blocks_are_the_same_blocks(make_small, small_loader, monkeypatch):
    """Captured without a break and differentiated ahead of time; the code generator is left out, which takes a minute."""
    from amt.train import parallelize

    compiled = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(parallelize.torch, "compile", compiled)
    batch = next(iter(small_loader))
    plain = gradients(make_small("c", checkpointing="selective"), batch)
    config = make_small("c", compile=True, checkpointing="selective")
    trainer = Trainer(config)
    trainer.train_step(batch)
    for name, p in trainer.model.named_parameters():
        if p.grad is not None:
            assert (p.grad - plain[name]).norm() <= 1e-4 * plain[name].norm() + 1e-7, name
    assert all(hasattr(block.forward, "_torchdynamo_orig_callable") for block in transformer_blocks(trainer.model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"blocks": "fast"},
            r"train\.blocks must be one of auto, stock, fused, fused_gelu, fused_tanh, fused_cutlass; got 'fast'",
        ),
        ({"precision": "half"}, r"train\.precision must be one of auto, float32, bf16, fp8, te, torchao; got 'half'"),
        ({"checkpointing": "some"}, r"train\.checkpointing must be none, selective or full; got 'some'"),
        ({"ema": 1.0}, r"train\.ema must be at least 0 and below 1; got 1\.0"),
        ({"layer_decay": 0.0}, r"train\.layer_decay must be above 0 and at most 1; got 0\.0"),
        ({"agc": -1.0}, r"train\.agc must not be negative; got -1\.0"),
        ({"head_lr": 0.0}, r"train\.head_lr must be above 0; got 0\.0"),
        ({"collapse_checks": -1}, r"train\.collapse_checks must not be negative; got -1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)
