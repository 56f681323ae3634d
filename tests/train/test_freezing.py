"""A backbone that is trained in stages: what stands still, and what the optimizers know of it."""

import warnings
from pathlib import Path

import pytest
import torch
from fixed_loader import SMALL, FixedLoader
from test_finite import differing

from amt.config import KernelsConfig, compose
from amt.data.config import CropConfig, DataConfig
from amt.model import AMT, ModelConfig
from amt.model.config import ConfigError
from amt.train.config import PROGRAM, Config, TrainConfig
from amt.train.freezing import FreezeSchedule
from amt.train.states import load_newest, save_state
from amt.train.trainer import Trainer, run

STAGES = [[0, 2], [2, 1], [4, 0], [6, 2]]
SMALL_DINOV2 = {**SMALL, "crop_size": 28, "backbone": {"name": "dinov2-small", "depth": 2}}

pytestmark = pytest.mark.filterwarnings("ignore:.*starts at random")


@pytest.fixture
def staged(tmp_path):
    pytest.importorskip("transformers")

    def make(name="run", freeze=STAGES, **train):
        settings = {
            "steps": 8,
            "batch_size": 2,
            "warmup_steps": 1,
            "save_every": 100,
            "device": "cpu",
            "ema": 0,
            **train,
        }
        output = TrainConfig(output=str(tmp_path / name), freeze=freeze, **settings)
        return Config(ModelConfig(**SMALL_DINOV2), DataConfig(crop=CropConfig(size=28)), output, KernelsConfig())

    return make


@pytest.fixture
def batches(make_batch):
    return FixedLoader(make_batch(4, crop=28, points=32), 2)


def backbone(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.backbone.named_parameters()}


def moved(before, after):
    names = {name.removeprefix("model.") for name in before if not torch.equal(before[name], after[name])}
    return {name.split(".")[0] if name.startswith("embeddings") else ".".join(name.split(".")[:3]) for name in names}


def test_each_stage_moves_what_it_names(staged, batches):
    """Blocks 0 and 1 and the embeddings; the final norm and the projection are always trained. Weight decay moves nothing."""
    trainer, always = (
        Trainer(staged(weight_decay=0.1)),
        {"layernorm.weight", "layernorm.bias", "project.weight", "project.bias"},
    )
    batch = next(iter(batches))
    for step in range(8):
        before = backbone(trainer)
        trainer.train_step(batch)
        found = moved(before, backbone(trainer)) - always
        frozen = FreezeSchedule(trainer.model, STAGES).blocks_at(step)
        assert (
            found == {0: {"embeddings", "encoder.layer.0", "encoder.layer.1"}, 1: {"encoder.layer.1"}, 2: set()}[frozen]
        )


def test_an_unfrozen_block_begins_with_moments_of_its_own(staged, batches):
    """AdamW's count of steps is the block's, not the run's: its bias correction is that of a first step."""
    trainer = Trainer(staged(optimizer="adamw"))
    batch = next(iter(batches))
    for _ in range(7):
        trainer.train_step(batch)
    state = trainer.optimizers.each[0].state
    counts = {
        name: int(state[p]["step"]) if p in state else 0 for name, p in trainer.model.backbone.model.named_parameters()
    }
    assert counts["layernorm.weight"] == 7
    assert counts["encoder.layer.1.norm1.weight"] == 4  # steps 2 to 5
    assert counts["encoder.layer.0.norm1.weight"] == counts["embeddings.cls_token"] == 2  # steps 4 and 5
    assert counts["embeddings.mask_token"] == 0


def test_frozen_blocks_drop_nothing_and_keep_no_activations(staged, batches):
    trainer = Trainer(staged())
    trainer.train_step(next(iter(batches)))
    layers = trainer.model.backbone.model.encoder.layer
    assert [layer.training for layer in layers] == [False, False]
    assert not any(p.requires_grad for layer in layers for p in layer.parameters())
    for _ in range(3):
        trainer.train_step(next(iter(batches)))
    assert [layer.training for layer in layers] == [False, True]


def test_a_run_resumed_after_a_stage_has_the_same_bits(staged, batches, monkeypatch):
    monkeypatch.setattr("amt.train.trainer.draw_curves", lambda *_: None)
    run(staged("whole", steps=5), batches, progress=False)
    config = staged("parts", steps=5)
    first = Trainer(config)
    for step in range(3):
        batches.set_epoch(*divmod(step, len(batches)))
        first.train_step(next(iter(batches)))
    save_state(Path(config.train.output) / "states", 3, first.state_dict(), keep=1)
    run(config, batches, progress=False)
    cpu = torch.device("cpu")
    a, b = (load_newest(Path(staged(name).train.output) / "states", cpu)[1] for name in ("whole", "parts"))
    assert not differing(a, b)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.freeze=[[0,3]]"], r"train\.freeze is for DINOv2; model\.backbone\.name=hybrid"),
        (
            ["model=small", "train.freeze=[[0,13]]"],
            r"train\.freeze: blocks must be a whole number from 0 .* to 12; got 13",
        ),
        (
            ["model=small", "model.backbone.frozen_layers=2", "train.freeze=[[0,1]]"],
            r"from 2 .*never trained\) to 12; got 1",
        ),
        (["model=small", "train.freeze=[[5,3],[5,0]]"], r"train\.freeze: steps must grow; got 5, 5"),
        (["model=small", "train.freeze=[3]"], r"train\.freeze must be a list of \[step, blocks\], such as"),
    ],
)
def test_a_wrong_schedule_is_one_line(words, message):
    with pytest.raises(ConfigError, match=message):
        Config(**compose(PROGRAM, words))


def test_freeze_names_blocks_that_are_not_there():
    pytest.importorskip("transformers")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AMT(ModelConfig(**SMALL_DINOV2))
    with pytest.raises(ValueError, match="layers must be 0 to 2; got 3"):
        model.backbone.freeze(3)
