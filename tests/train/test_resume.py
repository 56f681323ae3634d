"""A run that was stopped, killed or robbed of its files goes on from what is left, with the same bits."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fixed_loader import Varied
from test_finite import differing

from amt.data.loader import Loader
from amt.train import trainer as trainer_module
from amt.train.records import read_log
from amt.train.signals import Stopped, StopRequest
from amt.train.states import Score, StateError, best_state, load_newest, read_state, save_state, states
from amt.train.trainer import run

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """The curves take a second a run; test_trainer.py looks at them."""
    monkeypatch.setattr(trainer_module, "draw_curves", lambda *_: None)


def signalled_in(step, signum, monkeypatch):
    """Sends a signal to the processes of the loader and to the run, in the middle of a step."""
    right = trainer_module.Trainer.train_step
    others = {child.pid for child in multiprocessing.active_children()}  # of tests that ran before in this process

    def train_step(self, batch):
        if self.step == step:
            mine = {child.pid for child in multiprocessing.active_children()} - others
            processes = [*mine, os.getpid()]
            # from outside: a worker of PyTorch takes its parent's SIGTERM for a farewell
            subprocess.run(["kill", f"-{signum.name.removeprefix('SIG')}", *map(str, processes)], check=True)
            time.sleep(0.3)  # until the news of a dead process would come
        return right(self, batch)

    monkeypatch.setattr(trainer_module.Trainer, "train_step", train_step)


@pytest.mark.parametrize(("workers", "signum"), [(0, signal.SIGTERM), (2, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_stopped_run_ends_with_the_same_bits(make_small, make_batch, monkeypatch, workers, signum):
    """Stopped in the middle of an epoch: weights, average, moments, statistics, counts. Workers get the signal, too."""

    def train(name, workers):
        config = make_small(name, steps=7, batch_size=2, save_every=2, accumulate=2, ema=0.9)
        return config, Loader(Varied(make_batch(6, crop=32, points=32)), 2, shuffle=True, workers=workers)

    monkeypatch.setattr(trainer_module, "make_loader", lambda *_, **__: train("mean pose", 0)[1])
    config, loader = train("whole", 0)
    run(config, loader, progress=False)
    whole = Path(config.train.output)
    config, loader = train("parts", workers)
    with monkeypatch.context() as patch:
        signalled_in(4, signum, patch)
        with pytest.raises(Stopped, match=rf"{signum.name}: saved step 5") as stopped:
            run(config, loader, progress=False)
    assert stopped.value.code == (130 if signum == signal.SIGINT else 0)
    config, loader = train("parts", workers)
    run(config, loader, progress=False)
    a, b = (load_newest(folder / "states", CPU) for folder in (whole, Path(config.train.output)))
    assert a[0] == b[0] == 7
    assert not differing(a[1], b[1])
    assert {"model", "optimizers", "ema", "guard"} <= a[1].keys()
    files = [
        (folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (whole, Path(config.train.output))
    ]
    assert files[0] == files[1]
    assert [int(row["step"]) for row in read_log(Path(config.train.output) / "log.jsonl")] == list(range(7))


@pytest.mark.parametrize(
    ("when", "signum", "status"),
    [("before", signal.SIGTERM, 0), ("after", signal.SIGINT, 130), ("after", signal.SIGTERM, 0)],
)
def test_a_signal_outside_the_steps_ends_the_run_at_once(make_small, small_loader, monkeypatch, signum, status, when):
    """While data are prepared, or the checkpoint is written: nothing new is there to be saved."""

    def interrupted(*_, **__):
        os.kill(os.getpid(), signum)

    monkeypatch.setattr(trainer_module, "check_same_data" if when == "before" else "_mean_pose", interrupted)
    config = make_small("run", steps=2)
    before = signal.getsignal(signum)
    with pytest.raises(Stopped, match=rf"{signum.name}: no new step to save; the same command continues") as stopped:
        run(config, small_loader, progress=False)
    assert stopped.value.code == status
    assert signal.getsignal(signum) is before
    assert len(states(Path(config.train.output) / "states")) == (when == "after")
    assert not config.checkpoint_folder().exists()


def test_a_second_signal_is_not_held_back():
    with StopRequest() as stop, stop.between_steps():
        before = signal.getsignal(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signum == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is not before
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def flip_a_bit(path):
    """In the middle of a tensor's numbers, where no structure is."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_one_wrong_bit_is_noticed(tmp_path, caplog):
    for step in (1, 2):
        save_state(tmp_path, step, {"x": torch.randn(10_000)}, keep=2)
    path = tmp_path / "step-00000002" / "state.pt"
    flip_a_bit(path)
    torch.load(path, weights_only=True)  # PyTorch by itself does not notice
    assert load_newest(tmp_path, CPU)[0] == 1
    assert "step-00000002/state.pt cannot be read" in caplog.text
    assert "trying an older one" in caplog.text


def test_a_run_goes_on_from_the_state_before_a_broken_one(make_small, small_loader, caplog):
    run(make_small("whole", steps=6), small_loader, progress=False)
    config = make_small("parts", steps=6)
    shutil.copytree(Path(make_small("whole").train.output) / "states", Path(config.train.output) / "states")
    flip_a_bit(Path(config.train.output) / "states" / "step-00000006" / "state.pt")
    run(config, small_loader, progress=False)
    a, b = (load_newest(Path(make_small(name).train.output) / "states", CPU)[1] for name in ("whole", "parts"))
    assert not differing(a, b)
    assert "trying an older one" in caplog.text


def test_the_newest_and_the_best_states_stay(tmp_path):
    for step, value in enumerate((5.0, 2.0, 3.0, float("nan"), 4.0, 3.5), start=1):
        save_state(tmp_path, step, {"x": torch.tensor(step)}, 2, Score("loss", value))
    assert [int(path.name[-1]) for path in states(tmp_path)] == [2, 5, 6]
    assert best_state(tmp_path).name == "step-00000002"
    save_state(tmp_path, 7, {"x": torch.tensor(7)}, 2, Score("loss", 1.0))
    assert [int(path.name[-1]) for path in states(tmp_path)] == [6, 7]
    save_state(tmp_path, 8, {"x": torch.tensor(8)}, 2, Score("validation", 30.0))  # is not compared with a loss
    assert best_state(tmp_path).name == "step-00000008"
    assert load_newest(tmp_path, CPU)[0] == 8


def test_the_best_state_is_the_one_of_the_lowest_loss(make_small, small_loader):
    config = make_small("run", steps=12, save_every=2, keep=1)
    run(config, small_loader, progress=False)
    folder = Path(config.train.output)
    losses = [float(row["loss"]) for row in read_log(folder / "log.jsonl")]
    means = {step: sum(losses[step - 2 : step]) / 2 for step in range(2, 13, 2)}
    best = min(means, key=means.get)
    assert {int(path.name[5:]) for path in states(folder / "states")} == {best, 12}


def test_an_output_folder_that_is_deleted_in_mid_run_is_made_anew(make_small, small_loader, monkeypatch, caplog):
    config = make_small("run", steps=6, save_every=2, log_every=1)
    folder = Path(config.train.output)

    def save(states_folder, step, *rest):
        path = save_state(states_folder, step, *rest)
        if step == 2:
            shutil.rmtree(folder)
        return path

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "save_state", save)
        checkpoint = run(config, small_loader, progress=False)
    whole = run(make_small("whole", steps=6), small_loader, progress=False)
    assert "log.jsonl is gone: it is written anew from this step on" in caplog.text
    assert [int(row["step"]) for row in read_log(folder / "log.jsonl")] == [2, 3, 4, 5]
    assert [int(path.name[5:]) for path in states(folder / "states")] == [4, 6]
    assert (checkpoint / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_folder_that_cannot_be_written_is_one_line(make_small, small_loader, monkeypatch, error):
    """Also as root, whom a folder's mode does not stop."""

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        StateError, match=rf"train\.output=.*run cannot be written \({error.strerror}\); choose another"
    ):
        run(make_small("run"), small_loader, progress=False)


def test_a_state_that_cannot_be_written_leaves_the_one_before(make_small, small_loader, monkeypatch):
    config = make_small("run", steps=6, save_every=2)
    whole, right = torch.save, []

    def full(*arguments):
        right.append(arguments)
        if len(right) == 2:
            raise OSError(28, "No space left on device")
        whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(StateError, match=r"step-00000004 cannot be written .*No space left"):
            run(config, small_loader, progress=False)
    folder = Path(config.train.output) / "states"
    assert [path.name for path in folder.iterdir()] == ["step-00000002"]
    run(config, small_loader, progress=False)
    assert load_newest(folder, CPU)[0] == 6


def test_a_set_that_has_changed_is_refused(make_small, small_loader, caplog):
    config = make_small("run", steps=4)
    with suppress(Stopped):
        run(make_small("run", steps=4), Interrupted(small_loader), progress=False)
    small_loader.all = replace(
        small_loader.all, targets=replace(small_loader.all.targets, joints=small_loader.all.targets.joints + 0.001)
    )
    with pytest.raises(StateError, match=r"labels of the training set have changed .*train\.resume=force"):
        run(config, small_loader, progress=False)
    run(make_small("run", steps=4, resume="force"), small_loader, progress=False)
    assert "a training set that has changed" in caplog.text


class Interrupted:
    """The loader, with a SIGTERM in the first batch."""

    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from self.loader


def test_states_are_on_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    """The files, then their folder, then one rename, then the folder above."""
    events, paths = [], {}
    opened, synced, replaced = os.open, os.fsync, os.replace

    def note_open(path, *rest, **options):
        descriptor = opened(path, *rest, **options)
        paths[descriptor] = Path(path)
        return descriptor

    def note_sync(descriptor):
        events.append(("sync", paths[descriptor].name.partition("-")[0]))
        synced(descriptor)

    def note_replace(source, target):
        events.append(("rename", Path(target).name))
        replaced(source, target)

    monkeypatch.setattr(os, "open", note_open)
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    save_state(tmp_path / "states", 3, {"x": torch.ones(2)}, 1, Score("loss", 1.0))
    assert sorted(events[:2]) == [("sync", "score.json"), ("sync", "state.pt")]
    assert events[2:] == [("sync", ".tmp"), ("rename", "step-00000003"), ("sync", "states")]
    assert read_state(tmp_path / "states" / "step-00000003", CPU)["x"].sum() == 2
