"""What is done to gradients: centralisation, adaptive clipping, accumulation; and the average of the weights."""

import pytest
import torch
from torch import nn

from amt.model import load_checkpoint
from amt.train.config import TrainConfig
from amt.train.ema import Ema
from amt.train.gradients import centralize, clip_adaptively
from amt.train.optimizers import HEADS
from amt.train.trainer import Trainer, run

SHAPES = [(5, 7), (2, 5, 7), (5, 7, 3, 3)]


def parameter(*shape):
    made = nn.Parameter(torch.randn(shape))
    made.grad = torch.randn(shape) * 10 + 3
    return made


def units(tensor):
    return tensor.flatten(1) if tensor.dim() == 4 else tensor


@pytest.mark.parametrize("shape", SHAPES)
def test_a_centralised_gradient_has_no_mean_in_any_unit(shape):
    torch.manual_seed(0)
    p, q = parameter(*shape), nn.Parameter(torch.zeros(3))  # the second has no gradient
    before = p.grad.clone()
    centralize([p, q])
    assert units(p.grad).mean(dim=-1).abs().max() < 1e-5
    moved = units(before - p.grad)
    assert (moved - moved.mean(dim=-1, keepdim=True)).abs().max() < 1e-5  # nothing but the mean went
    assert q.grad is None


@pytest.mark.parametrize("shape", [*SHAPES, (7,), ()])
def test_a_clipped_unit_has_at_most_its_share_and_its_direction(shape):
    torch.manual_seed(0)
    p = parameter(*shape)
    with torch.no_grad():
        units(p).view(-1)[:1] = 1e5  # the first unit's weights allow its gradient
    before = p.grad.clone()
    clip_adaptively([p], 0.05)
    length = before.flatten().shape[0] if p.dim() < 2 else units(before).shape[-1]
    weights, after, before = (units(x.detach()).reshape(-1, length) for x in (p, p.grad, before))
    assert torch.equal(after[0], before[0])
    assert torch.allclose(after[1:].norm(dim=1), 0.05 * weights[1:].norm(dim=1))
    assert nn.functional.cosine_similarity(after, before).min() > 0.9999


def test_weights_of_zero_can_move_and_nan_stays():
    p, q, r = nn.Parameter(torch.zeros(2, 3)), parameter(4), parameter(2, 2)
    p.grad = torch.ones(2, 3)
    q.grad[1], r.grad[0, 0] = float("nan"), float("inf")
    clip_adaptively([p, q, r], 0.01)
    assert p.grad.norm(dim=1) == pytest.approx([1e-5, 1e-5])
    assert q.grad[1].isnan()
    assert not r.grad[0].isfinite().all()


def test_both_are_off_at_first_and_leave_what_they_are_not_for(make_small, small_loader):
    def gradients(**options):
        trainer = Trainer(make_small("one", clip_norm=1e9, **options))
        trainer.train_step(next(iter(small_loader)))
        return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}

    plain, clipped, centred = gradients(), gradients(agc=0.001), gradients(centralize=True)
    changed, moved = (
        {name for name in plain if not torch.equal(plain[name], grads[name])} for grads in (clipped, centred)
    )
    assert "fusion.blocks.0.mlp.fc1.weight" in changed & moved
    assert not [name for name in changed if name.startswith(HEADS)]  # they start near zero
    assert not [name for name in moved if name.endswith("bias") or "norm" in name or "embedding" in name]
    assert "object_decoder.head.2.weight" in moved


def test_micro_batches_make_the_gradient_of_their_batch(make_small, small_loader, monkeypatch):
    """Without batch norm and sampling a batch in four parts has the same gradient; the terms are means of the parts."""
    batch = next(iter(small_loader))
    batch.inputs.object_class.clamp_(min=1)
    results, grads = [], []
    for parts in (1, 4):
        trainer = Trainer(make_small("same", accumulate=parts, model={"sigma": False}, clip_norm=1e9))
        trainer.model.eval()
        monkeypatch.setattr(trainer.model, "train", lambda: None)
        trainer.config.train.loss.contact = trainer.config.train.loss.keypoint_maps = (
            0  # means of what differs in count
        )
        trainer.config.train.loss.keypoints = 0
        results.append(trainer.train_step(batch))
        grads.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))
    assert (grads[0] - grads[1]).norm() < 1e-4 * grads[0].norm()
    for name in ("loss", "joints", "object_points", "grad_norm"):
        assert float(results[0][name]) == pytest.approx(float(results[1][name]), rel=1e-4), name


def test_micro_batches_must_be_alike():
    with pytest.raises(ValueError, match=r"train\.accumulate=3 must divide train\.batch_size=32"):
        TrainConfig(accumulate=3)


def test_the_average_follows_its_definition_and_a_skipped_step_leaves_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ema, expected = Ema(model, 0.9), {name: value.double() for name, value in model.state_dict().items()}
    for step in range(40):
        model(torch.randn(8, 3))  # moves the running statistics
        with torch.no_grad():
            model[0].weight += torch.randn(4, 3)
        skipped = torch.tensor(float(step == 7))
        before = {name: value.clone() for name, value in ema.averages.items()}
        ema.update(step, skipped)
        if skipped:
            floating = [name for name, value in before.items() if value.is_floating_point()]
            assert all(torch.equal(before[name], ema.averages[name]) for name in floating)
            continue
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            new = value.double()
            expected[name] = decay * expected[name] + (1 - decay) * new if value.is_floating_point() else new
    for name, value in ema.averages.items():
        assert torch.allclose(value.double(), expected[name], rtol=1e-5, atol=1e-6), name
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with ema.applied():
        assert all(torch.equal(value, ema.averages[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_the_average_is_exported_and_the_weights_are_trained_on(make_small, small_loader):
    """Training does not see the average; the checkpoint holds it."""
    folders = [run(make_small(f"ema{decay}", ema=decay), small_loader, progress=False) for decay in (0.0, 0.99)]
    trained, averaged = (load_checkpoint(folder)[0].state_dict() for folder in folders)
    trainer = Trainer(make_small("again", ema=0.99))
    epoch = 0
    while trainer.step < 4:
        small_loader.set_epoch(epoch)
        for batch in small_loader:
            trainer.train_step(batch)
        epoch += 1
    own = trainer.model.state_dict()
    assert not [name for name in own if not torch.equal(own[name], trained[name])]
    assert not [name for name in own if not torch.equal(trainer.ema.averages[name], averaged[name])]
    assert not torch.equal(own["neck.low.weight"], averaged["neck.low.weight"])
