"""Two ranks that train one model on a CPU: the numbers of one process, states for any number of ranks, kills and signals."""

import json
import os
import subprocess
import sys

import pytest
import rank_runs
import torch
from rank_runs import SAVED, STEPS
from test_finite import differing, flat

from amt.config import KernelsConfig
from amt.data.config import DataConfig
from amt.model import ModelConfig
from amt.train.config import Config, ConfigError, TrainConfig, check_ranks
from amt.train.records import read_log
from amt.train.states import read_state

RANKS = ("ddp", "fsdp")
SHIFTS = (
    ".k.bias",
    "score_and_depth.bias",
)  # softmax takes no notice: their gradients are rounding, which AdamW enlarges


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_batch):
    """A folder of runs: "one" by one process, the others by two or by both in turn (see ``rank_runs.main``).

    Labels are missing for some samples, so that ranks count other numbers of them, and one sample is never finite.
    """
    folder = tmp_path_factory.mktemp("ranks")
    for crop in (32, rank_runs.DINOV2["crop_size"]):
        frames = make_batch(12, crop=crop, points=32, left=True)
        frames.targets.hand_valid[[1, 4]] = False
        frames.targets.object_valid[[2, 5]] = False
        frames.targets.contact_valid[[2, 6]] = False
        frames.targets.joints[7, 3, 1] = float("inf")
        torch.save(frames, folder / f"frames-{crop}.pt")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("make_loader", "draw_curves"):  # rank_runs.train replaces them
            patch.setattr(rank_runs.trainer_module, name, None)
        rank_runs.train(folder, "one")
        rank_runs.train_in_stages(folder)
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=3"]
        done = subprocess.run(
            [*launch, rank_runs.__file__, str(folder)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=900,  # turns ranks that wait for each other into a failure
        )
        assert done.returncode == 0, done.stderr
        (folder / "stderr").write_text(done.stderr)
        for parallel in RANKS:
            rank_runs.go_on(folder, parallel, "none")
    return folder


def losses(run):
    return [row["loss"] for row in read_log(run / "log.jsonl")]


def last_state(run):
    return read_state(run / "states" / f"step-{STEPS:08d}", torch.device("cpu"))


def assert_near(a, b, tolerance):
    """All tensors of two states; each is compared as a whole."""
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    far = [
        name
        for name in a
        if (a[name].double() - b[name].double()).norm() > tolerance * (b[name].double().norm() + 1e-3)
    ]
    assert not far


def without_shifts(weights):
    return {name: value for name, value in weights.items() if not name.endswith(SHIFTS)}


@pytest.mark.parametrize("parallel", RANKS)
def test_the_loss_of_two_ranks_is_that_of_one(runs, parallel):
    """With the same global batch, drawn numbers, masks, batch norms, running errors, average and skipped steps."""
    one, two = losses(runs / "one"), losses(runs / parallel)
    assert len(one) == STEPS
    assert one.count(None) == 2  # the steps with the sample that is not finite
    assert two == [None if loss is None else pytest.approx(loss, rel=1e-5) for loss in one]
    rows = [read_log(runs / name / "log.jsonl")[-1] for name in ("one", parallel)]
    for name in ("spread", "contact_f1_constant", "grad_norm", "diversity", "penetration", "joint_limits", "skipped"):
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-3, abs=1e-6), name
    assert_near(*(without_shifts(last_state(runs / name)["model"]) for name in (parallel, "one")), 1e-4)


@pytest.mark.parametrize("name", ["one-ddp", "one-fsdp", "ddp-none", "fsdp-none", "ddp-fsdp", "fsdp-ddp"])
def test_a_state_goes_on_with_another_number_of_ranks(runs, name):
    before = name.split("-")[0]
    steps = [row["step"] for row in read_log(runs / name / "log.jsonl")]
    assert steps == list(range(SAVED, STEPS))
    assert losses(runs / name) == [
        None if loss is None else pytest.approx(loss, rel=1e-5) for loss in losses(runs / before)[SAVED:]
    ]
    assert_near(last_state(runs / name), last_state(runs / before), 1e-3)


def test_states_are_whole_whatever_wrote_them(runs):
    one, fsdp = (flat(last_state(runs / name)) for name in ("one", "fsdp"))
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in fsdp.items()}


def test_a_killed_rank_changes_nothing(runs):
    """SIGKILL between two states; torchrun starts both ranks again, and every bit is that of the run without a kill."""
    assert (runs / "attempts").read_text() == "2"
    assert not differing(last_state(runs / "killed"), last_state(runs / "ddp"))


def test_a_signal_to_one_rank_stops_all_at_one_step(runs):
    """And the run that goes on ends with the bits of the one that was not stopped."""
    assert [(runs / f"stopped-{rank}").read_text() for rank in (0, 1)] == ["0 3", "0 3"]
    assert not differing(last_state(runs / "stopped"), last_state(runs / "fsdp"))


def test_the_checkpoint_of_shards_is_whole(runs):
    from amt.model import load_checkpoint

    one, two = (load_checkpoint(runs / name / "checkpoint")[0].state_dict() for name in ("one", "fsdp"))
    assert_near(without_shifts(two), without_shifts(one), 1e-4)


@pytest.mark.parametrize("parallel", RANKS)
def test_ranks_share_a_validation_and_find_the_figures_of_one_process(runs, parallel):
    """With the same weights. The last batch has one frame, so that the second rank has none of it."""
    one = rank_runs.figures(runs, "none")
    assert {"loss", "wrist_aligned_mm", "spread", "adds_mm", "contact_f1"} < set(one)
    assert any(name.startswith("attention_entropy/") for name in one)
    for rank in (0, 1):
        found = json.loads((runs / f"figures-{parallel}-{rank}").read_text())
        assert found == {name: pytest.approx(value, rel=1e-6) for name, value in one.items()}
    steps = [row["step"] for row in read_log(runs / parallel / "validation.jsonl")]
    assert steps == [SAVED, STEPS]
    assert [path.name for path in (runs / parallel / "pictures").iterdir()] == [f"step-{STEPS:08d}.jpg"]


@pytest.mark.parametrize("parallel", RANKS)
def test_a_backbone_is_frozen_and_thawed_on_all_ranks(runs, parallel):
    """The matrices are compared: of biases that start at 0 AdamW makes as much as rounding does."""
    pytest.importorskip("transformers")
    one, two = (losses(runs / f"stages-{name}") for name in ("none", parallel))
    assert two == [None if loss is None else pytest.approx(loss, rel=1e-5) for loss in one]
    weights = [last_state(runs / f"stages-{name}")["model"] for name in (parallel, "none")]
    assert_near(*({name: value for name, value in each.items() if value.dim() > 1} for each in weights), 1e-4)


def test_nothing_warns_a_user(runs):
    """But for DDP's note that it searches for unused parameters, which C++ prints and docs/training.md explains."""
    warned = [line for line in (runs / "stderr").read_text().splitlines() if "Warning: " in line]
    assert [line for line in warned if "find_unused_parameters=True was specified in DDP constructor" not in line] == []


@pytest.mark.parametrize(
    ("world", "options", "dry", "message"),
    [
        ("2", {}, False, r"WORLD_SIZE=2: several processes train one model with train\.parallel=ddp or fsdp"),
        (
            None,
            {"parallel": "ddp"},
            False,
            r"train\.parallel=ddp is started by torchrun --nproc-per-node=N -m amt\.train",
        ),
        ("3", {"parallel": "fsdp"}, False, r"train\.batch_size=32 is the batch of all 3 processes .* a multiple of 3 "),
        ("2", {"parallel": "ddp", "batch_size": "auto"}, False, r"train\.batch_size=auto is found by one process"),
        ("2", {"parallel": "fsdp"}, True, r"--dry-run is done by one process: leave torchrun and train\.parallel out"),
        ("2", {"parallel": "fsdp", "precision": "fp8"}, False, r"train\.precision=fp8 is not sharded"),
    ],
)
def test_what_does_not_fit_is_one_line(monkeypatch, world, options, dry, message):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ConfigError, match=message):
        check_ranks(Config(ModelConfig(), DataConfig(), TrainConfig(**options), KernelsConfig()), dry)


def test_an_unknown_kind_of_parallelism_is_refused():
    with pytest.raises(ConfigError, match=r"train\.parallel must be none, ddp or fsdp; got 'dp'"):
        TrainConfig(parallel="dp")
