"""experiment=overfit in small: eight pictures by heart, with a smaller model."""

import pytest
import torch
from fixed_loader import SMALL, FixedLoader

from amt.config import compose
from amt.metrics import wrist_aligned_error_mm
from amt.train.config import PROGRAM, Config
from amt.train.trainer import Trainer


def test_eight_pictures_are_learned_to_three_millimetres(make_batch, tmp_path):
    words = [f"model.{name}={value}" for name, value in SMALL.items()]
    words += ["train.batch_size=8", "train.lr=2e-3", "train.muon_lr=8e-3", "train.ema=0.9", "train.device=cpu"]
    config = Config(**compose(PROGRAM, ["experiment=overfit", *words, f"train.output={tmp_path}"]))
    assert (config.data.limit, config.train.schedule, config.model.sigma) == (32, "constant", False)
    assert not any(getattr(config.data.augment, name) for name in vars(config.data.augment))
    trainer, loader = Trainer(config), FixedLoader(make_batch(8, crop=32, points=32, left=True), 8)
    batch = next(iter(loader))

    def error():
        with trainer.ema.applied(), torch.no_grad():
            prediction = trainer.model.eval()(batch.inputs)
        return float(wrist_aligned_error_mm(prediction.joints, batch.targets.joints).mean())

    start = error()
    for _ in range(300):
        result = trainer.train_step(batch)
    assert start > 50
    assert error() < 3
    assert float(result["skipped"]) == 0
    assert float(result["lr"]) == pytest.approx(2e-3)
