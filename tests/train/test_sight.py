"""What is looked at between steps: it tells the truth, it keeps the best, and it changes nothing."""

import json
import math
from dataclasses import replace

import cv2
import pytest
import torch
from fixed_loader import FixedLoader

from amt.data.errors import EmptySubset
from amt.kernels import attention
from amt.metrics import wrist_aligned_error_mm
from amt.model.attention_entropy import attention_entropy
from amt.train.config import TrainConfig
from amt.train.contents import contents
from amt.train.pictures import SIDE, draw_samples, fixed_samples
from amt.train.records import read_log
from amt.train.sight import evaluating, make_sight
from amt.train.states import best_state, load_newest, read_score, states
from amt.train.trainer import Trainer, run
from amt.train.validation import validate

CPU = torch.device("cpu")


@pytest.fixture
def unseen(make_batch):
    """A loader of six other frames, in order."""

    class InOrder(FixedLoader):
        def __len__(self):
            return -(-len(self.all.index) // self.batch_size)

        def __iter__(self):
            for k in range(len(self)):
                yield self.all[slice(k * self.batch_size, (k + 1) * self.batch_size)]

    return InOrder(make_batch(6, crop=32, points=32, seed=5, left=True), 4)


@pytest.fixture
def without_extras(monkeypatch):
    """Runs without their curves and the estimate of their memory, which take longer than the steps."""
    monkeypatch.setattr("amt.train.trainer.draw_curves", lambda *_: None)
    monkeypatch.setattr(Trainer, "memory", lambda self: "")


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_a_run_that_is_looked_at_has_the_same_bits(make_small, small_loader, unseen, without_extras):
    options = {"steps": 6, "save_every": 6, "model": {"drop_path": 0.1, "feature_noise": 0.1}}
    plain = make_small("plain", **options)
    watched = make_small("watched", **options, validate_every=2, pictures_every=3, log_every=2)
    run(plain, small_loader, progress=False)
    run(watched, small_loader, progress=False, validation=unseen)
    a, b = (load_newest(config.output_folder() / "states", CPU)[1] for config in (plain, watched))
    assert len(read_log(watched.output_folder() / "validation.jsonl")) == 3
    assert [name for name in a if name not in ("seconds", "run") and not same(a[name], b[name])] == []
    model, other = (config.checkpoint_folder() / "model.safetensors" for config in (plain, watched))
    assert model.read_bytes() == other.read_bytes()


def test_a_validation_is_the_averaged_model_on_every_frame(make_small, small_loader, unseen):
    trainer = Trainer(make_small("ema", ema=0.5))
    for batch in [next(iter(small_loader))] * 3:
        trainer.train_step(batch)
    own = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with evaluating(trainer):
        found = validate(trainer, unseen)
    assert all(torch.equal(value, own[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.model.training
    assert trainer.losses.training
    trainer.model.load_state_dict(trainer.ema.averages)
    trainer.model.eval()
    with torch.no_grad():
        joints = torch.cat([trainer.model(batch.inputs).joints for batch in unseen])
    expected = wrist_aligned_error_mm(joints, unseen.all.targets.joints).mean()
    assert found["wrist_aligned_mm"] == pytest.approx(float(expected), rel=1e-5)
    assert {"loss", "procrustes_mm", "absolute_mm", "adds_mm", "contact_f1", "spread"} <= set(found)


def test_the_best_validated_state_stays(make_small, small_loader, unseen, without_extras, monkeypatch, capsys):
    figures = iter([30.0, 10.0, 20.0, 25.0])
    monkeypatch.setattr("amt.train.sight.validate", lambda *_: {"loss": 1.0, "wrist_aligned_mm": next(figures)})
    config = make_small("best", steps=7, keep=1, save_every=100, validate_every=2, pictures_every=0)
    run(config, small_loader, validation=unseen)
    folder = config.output_folder() / "states"
    assert [path.name for path in states(folder)] == ["step-00000004", "step-00000007"]
    assert best_state(folder).name == "step-00000004"
    assert read_score(best_state(folder)) == ("validation wrist_aligned_mm", 10.0)
    lines = [line for line in capsys.readouterr().out.splitlines() if "validation" in line]
    assert [line.endswith("best so far") for line in lines] == [True, True, False, False]
    assert lines[1].startswith("step 4/7  validation  loss 1  wrist aligned mm 10")
    assert "best step-00000004 (validation wrist_aligned_mm 10)" in contents(config)


def test_a_resumed_run_validates_each_step_once(make_small, small_loader, unseen, without_extras):
    run(make_small("run", steps=4, validate_every=2, pictures_every=0), small_loader, progress=False, validation=unseen)
    config = make_small("run", steps=8, validate_every=2, pictures_every=0, resume="force")
    run(config, small_loader, progress=False, validation=unseen)
    assert [row["step"] for row in read_log(config.output_folder() / "validation.jsonl")] == [2, 4, 6, 8]


def test_pictures_are_of_the_same_samples_each_time(make_small, small_loader, unseen):
    unseen.all = replace(unseen.all, targets=replace(unseen.all.targets, hand_valid=torch.arange(6) != 2))
    chosen = [int(sample.index[0]) for sample in fixed_samples(unseen, 3)]
    assert chosen == [int(sample.index[0]) for sample in fixed_samples(unseen, 3)]
    assert 2 not in chosen
    config = make_small("drawn", steps=4, validate_every=4, pictures_every=2, logger="tensorboard")
    run(config, small_loader, progress=False, validation=unseen)
    pictures = sorted((config.output_folder() / "pictures").iterdir())
    assert [path.name for path in pictures] == ["step-00000002.jpg", "step-00000004.jpg"]
    first, second = (cv2.imread(str(path)) for path in pictures)
    assert first.shape == second.shape
    truth = (
        slice(None, SIDE - 16),
        slice(SIDE + 16, 2 * SIDE - 16),
    )  # the middle tile of the first strip
    assert abs(first[truth].astype(int) - second[truth]).max() == 0
    assert abs(first.astype(int) - second).max() > 30
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(config.output_folder() / "tensorboard")).Reload()
    assert [event.step for event in events.Images("predictions")] == [2, 4]
    assert events.Scalars("validation/wrist_aligned_mm")[0].step == 4
    text = contents(config)  # the end of a run says where everything is
    for name in ("checkpoint", "loss.png", "pictures", "log.jsonl", "validation.jsonl", "tensorboard", "states"):
        assert str(config.output_folder() / name) in text, name
    rows = read_log(config.output_folder() / "validation.jsonl")
    assert any(name.startswith("attention_entropy/") for name in rows[0])
    json.dumps(rows, allow_nan=False)


def test_what_was_predicted_is_drawn_beside_what_is_true(make_small, unseen):
    """A prediction that is the truth gives two equal tiles, but for their labels."""
    trainer = Trainer(make_small("drawn"))
    sample = unseen.all[[1]]  # a left hand
    t, loss = sample.targets, trainer.loss

    def right(batch, step):
        total, p = loss(batch, step)
        decoded = replace(p.decoded, object_rotation=t.object_rotation, object_translation=t.object_translation)
        refined = replace(p.refined, joints=t.joints, vertices=t.vertices)
        contact = replace(p.contact, hand=t.hand_contact * 100.0 - 50, object=t.object_contact * 100.0 - 50)
        return total, replace(p, decoded=decoded, refined=refined, contact=contact)

    trainer.loss = right
    with evaluating(trainer):
        picture = draw_samples(trainer, [sample])
    left, middle = picture[24:SIDE, :SIDE], picture[24:SIDE, SIDE + 4 : 2 * SIDE + 4]
    assert abs(left.astype(int) - middle).max() <= 2


def test_entropy_by_layer(make_small, unseen):
    model = Trainer(make_small("layers")).model.eval()
    found = attention_entropy(model, unseen.all.inputs)
    blocks = [f"fusion.blocks.{i}" for i in range(len(model.fusion.blocks))]
    assert {*blocks, "backbone.blocks.0"} <= set(found)
    assert all(0 < float(value) < math.log(200) for value in found.values())
    with torch.no_grad():  # scores of 0: every query looks at all keys alike
        for name in ("weight", "bias"):
            getattr(model.backbone.blocks[0].attention.q, name).zero_()
    tokens = (model.config.crop_size // 16) ** 2
    looked = float(attention_entropy(model, unseen.all.inputs)["backbone.blocks.0"])
    assert looked == pytest.approx(math.log(tokens), rel=1e-5)
    q = torch.randn(1, 2, 5, 64)
    assert attention(q, q, q).shape == q.shape  # nothing is left of the look


def test_a_set_without_validation_frames_is_trained_on_all_the_same(make_small, monkeypatch, caplog):
    def empty(*_, **__):
        raise EmptySubset("s1 val: no frame")

    monkeypatch.setattr("amt.train.sight.make_loader", empty)
    sight = make_sight(make_small("none"), CPU, progress=False)
    assert not sight.validates(500, ends=True)
    assert "no validation and no pictures: s1 val: no frame" in caplog.text


@pytest.mark.parametrize("name", ["validate_every", "validate_images", "pictures_every"])
def test_a_negative_number_is_one_line(name):
    with pytest.raises(ValueError, match=rf"train\.{name} must not be negative; got -1"):
        TrainConfig(**{name: -1})
