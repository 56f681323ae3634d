"""A task made to collapse: of twenty labels nineteen are another sample's, so that the mean pose is almost the best answer."""

from dataclasses import replace

import pytest
import torch

from amt.hand.camera import project
from amt.train.collapse import LEAST_SPREAD, CollapseMonitor, spread_ratio
from amt.train.config import LossConfig
from amt.train.trainer import Trainer

WRONG, STEPS = 0.95, 100


def drawn(batch):
    """The batch with a dot at each joint in place of its noise: what a small network sees at once."""
    grid = torch.arange(batch.inputs.image.shape[-1])
    x, y = project(batch.targets.joints, batch.inputs.intrinsics)[..., None, None].unbind(2)
    dots = torch.exp(-((x - grid) ** 2 + (y - grid[:, None]) ** 2) / 4)
    image = torch.stack([dots[:, colour::3].amax(1) for colour in range(3)], dim=1)
    return replace(batch, inputs=replace(batch.inputs, image=(image * 255).byte()))


def mislabelled(batch, seed):
    """Most samples have another one's hand, moved to their own wrist."""
    g, count = torch.Generator().manual_seed(seed), len(batch.index)
    rows = torch.where(
        torch.rand(count, generator=g) < WRONG, torch.randint(0, count, (count,), generator=g), torch.arange(count)
    )
    t = batch.targets[rows]
    move = batch.targets.joints[:, :1] - t.joints[:, :1]
    moved = {"joints": t.joints + move, "vertices": t.vertices + move, "translation": t.translation + move[:, 0]}
    return replace(batch, targets=replace(t, **moved))


@pytest.mark.parametrize(("diversity", "collapses"), [(0.0, True), (2.0, False)])
def test_only_without_prevention_it_collapses_on_people_it_never_saw(make_small, make_batch, diversity, collapses):
    train, held_out = (drawn(make_batch(count, crop=32, points=32, seed=seed)) for count, seed in ((256, 1), (64, 2)))
    weights = LossConfig(keypoints=0, keypoint_maps=0, projection=0, diversity=diversity)
    options = {"batch_size": 32, "warmup_steps": 5, "lr": 2e-3, "muon_lr": 8e-3, "ema": 0, "loss": weights}
    trainer = Trainer(make_small("run", model={"sigma": False}, steps=STEPS, **options))
    for step in range(STEPS):
        rows = torch.randint(0, 256, (32,), generator=torch.Generator().manual_seed(step))
        trainer.train_step(mislabelled(train[rows], step))
    trainer.model.eval()
    with torch.no_grad():
        spread = float(spread_ratio(trainer.model(held_out.inputs).joints, held_out.targets))
    assert spread < LEAST_SPREAD if collapses else spread > 0.7
    report = CollapseMonitor(checks=1, first_step=5).look([{"step": STEPS, "spread": spread}])
    assert (report is not None) == collapses
