"""train.precision=fp8: a run learns, and leaves a checkpoint that any precision reads."""

import logging
import math

from amt.kernels.fp8_linear import Fp8Linear
from amt.model import load_checkpoint
from amt.train.trainer import Trainer, run


def test_a_run_in_fp8_leaves_an_ordinary_checkpoint(make_small, small_loader, caplog):
    caplog.set_level(logging.INFO)
    folder = run(make_small("fp8", precision="fp8"), small_loader, progress=False)
    assert "train.precision=fp8: FP8 products in" in caplog.text
    model, record = load_checkpoint(folder)
    assert record["train"]["precision"] == "fp8"
    assert not any(isinstance(layer, Fp8Linear) for layer in model.modules())


def test_it_learns_as_bf16_does(make_small, small_loader):
    batch, last = next(iter(small_loader)), {}
    for precision in ("bf16", "fp8"):
        trainer = Trainer(make_small(precision, steps=12, warmup_steps=2, lr=2e-3, precision=precision))
        losses = [float(trainer.train_step(batch)["loss"]) for _ in range(12)]
        assert all(math.isfinite(loss) for loss in losses)
        last[precision] = losses[-1] / losses[0]
    assert last["fp8"] < last["bf16"] + 0.1
