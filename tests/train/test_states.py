"""States, logs and folders of a run: whole or absent, continued by the same run only, closed by a signal."""

import json
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from amt.model import AMT, ModelConfig, load_checkpoint, save_checkpoint
from amt.model.checkpoint import CheckpointError
from amt.train import trainer as trainer_module
from amt.train.config import MAY_DIFFER, differences, identity
from amt.train.records import StepLog, read_log
from amt.train.signals import Stopped
from amt.train.states import StateError, load_newest, only_run_in, save_state, states
from amt.train.trainer import Trainer, run

CPU = torch.device("cpu")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lr": 2e-3}, r"train\.lr is 0\.002, was 0\.001"),
        ({"seed": 1}, r"train\.seed is 1, was 0"),
        ({"batch_size": 2}, r"train\.batch_size is 2, was 4"),
        ({"steps": 5}, r"train\.steps is 5, was 4"),
        ({"warmup_steps": 3}, r"train\.warmup_steps is 3, was 2"),
        ({"ema": 0.9}, r"train\.ema is 0\.9, was 0\.999"),
        ({"accumulate": 2}, r"train\.accumulate is 2, was 1"),
        ({"optimizer": "adamw"}, r"train\.optimizer is adamw, was muon"),
        ({"model": {"refine_steps": 1}}, r"model\.refine_steps is 1, was 0"),
    ],
)
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "stopped"])
def test_another_run_does_not_continue_in_the_folder(make_config, loader, changes, named, finished):
    config = make_config("same")
    folder = Path(config.train.output)
    if finished:
        run(config, loader, progress=False)
    else:
        save_state(folder / "states", 2, Trainer(config).state_dict(), keep=2)
    before = contents(folder)
    with pytest.raises(StateError, match=rf"{named}.*(choose another train\.output|remove).*train\.resume=force"):
        run(make_config("same", **changes), loader, progress=False)
    (folder / ".lock").unlink()
    before.pop(Path(".lock"), None)
    assert contents(folder) == before


def test_another_set_is_another_run(make_config, tmp_path):
    config = make_config("same")
    saved = identity(dict_of(config))
    for key, value in (("root", str(tmp_path)), ("split", "s0")):
        other = make_config("same")
        object.__setattr__(other.data, key, value)
        assert differences(saved, identity(dict_of(other))) == f"data.{key} is {value}, was {saved[f'data.{key}']}"


def dict_of(config):
    import dataclasses

    return dataclasses.asdict(config)


def test_what_changes_nothing_that_is_learned_may_differ(make_config, loader):
    config = make_config("same", steps=4)
    known = identity(dict_of(config))
    assert not set(MAY_DIFFER) & set(known)
    save_state(Path(config.train.output) / "states", 2, Trainer(config).state_dict(), keep=2)
    run(make_config("same", steps=4, threads=1, save_every=1, keep=1, log_every=1), loader, progress=False)


def test_a_difference_can_be_accepted(make_config, loader, caplog):
    run(make_config("same", steps=2), loader, progress=False)
    folder = run(make_config("same", steps=3, lr=2e-3, resume="force"), loader, progress=False)
    assert "train.lr is 0.002, was 0.001" in caplog.text
    assert load_checkpoint(folder)[1]["train"]["lr"] == 2e-3
    with pytest.raises(StateError, match="the state does not fit this model"):
        run(make_config("same", steps=3, model={"refine_steps": 1}, resume="force"), loader, progress=False)


def test_states_of_earlier_versions_are_refused(make_config, loader):
    config = make_config("older")
    state = Trainer(config).state_dict()
    del state["run"]
    save_state(Path(config.train.output) / "states", 2, state, keep=1)
    with pytest.raises(StateError, match="older than this version"):
        run(config, loader, progress=False)


def test_a_finished_run_says_so_and_trains_nothing(make_config, loader, caplog, monkeypatch):
    folder = run(make_config("same", steps=2), loader, progress=False)
    (folder / "metrics.json").write_text("{}")
    before = contents(folder)
    monkeypatch.setattr(trainer_module, "_train", None)
    with caplog.at_level("INFO"):
        assert run(make_config("same", steps=2), loader, progress=False) == folder
    assert "this run is finished after 2 steps; nothing is left to train" in caplog.text
    assert contents(folder) == before
    shutil.rmtree(folder)
    assert run(make_config("same", steps=2), loader, progress=False) == folder  # written anew from the newest state
    assert contents(folder)[Path("model.safetensors")] == before[Path("model.safetensors")]


def test_a_checkpoint_of_another_run_is_not_overwritten(make_config, loader, tmp_path):
    folder = run(make_config("one", steps=1, checkpoint=str(tmp_path / "ck")), loader, progress=False)
    before = contents(folder)
    with pytest.raises(StateError, match=r"ck holds the model of another run \(train\.seed is 1, was 0\)"):
        run(make_config("two", steps=1, seed=1, checkpoint=str(folder)), loader, progress=False)
    assert contents(folder) == before
    (folder / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"holds other files \(notes\.txt\)"):
        run(make_config("three", steps=1, checkpoint=str(folder)), loader, progress=False)


def test_two_processes_do_not_train_in_one_folder(make_config, loader):
    config = make_config("same", steps=1)
    with only_run_in(Path(config.train.output)), pytest.raises(StateError, match="another process trains in it"):
        run(config, loader, progress=False)
    run(config, loader, progress=False)


def test_several_ranks_are_refused(make_config, loader, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"WORLD_SIZE=2: .* train\.parallel=ddp"):
        run(make_config("ranks"), loader, progress=False)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state_and_the_same_command_continues(make_config, loader, signum, status):
    whole = run(make_config("whole", steps=6), loader, progress=False)
    config = make_config("parts", steps=6, save_every=100)

    class Interrupting:
        """The loader, with a signal while the third batch is made."""

        def __getattr__(self, name):
            return getattr(loader, name)

        def __len__(self):
            return len(loader)

        def __iter__(self):
            for batch in loader:
                if loader.epoch == 1:
                    os.kill(os.getpid(), signum)
                yield batch

    before = signal.getsignal(signum)
    with pytest.raises(Stopped, match=rf"{signum.name}: saved step 3; the same command continues") as stopped:
        run(config, Interrupting(), progress=False)
    assert stopped.value.code == status
    assert signal.getsignal(signum) is before
    assert [path.name for path in states(Path(config.train.output) / "states")] == ["step-00000003"]
    assert len(read_log(Path(config.train.output) / "log.jsonl")) == 3
    parts = run(make_config("parts", steps=6, save_every=100), loader, progress=False)
    a, b = (load_checkpoint(folder)[0].state_dict() for folder in (whole, parts))
    assert not [name for name in a if not torch.equal(a[name], b[name])]
    assert [row["step"] for row in read_log(Path(config.train.output) / "log.jsonl")] == list(range(6))


def test_the_newest_readable_state_wins(tmp_path):
    assert load_newest(tmp_path, CPU) is None
    for step in (1, 2, 3):
        save_state(tmp_path, step, {"x": torch.tensor(step)}, keep=2)
    assert [path.name for path in states(tmp_path)] == ["step-00000002", "step-00000003"]
    newest = tmp_path / "step-00000003" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:50])
    step, state = load_newest(tmp_path, CPU)
    assert (step, int(state["x"])) == (2, 2)
    (tmp_path / "step-00000002" / "state.pt").write_bytes(b"")
    with pytest.raises(StateError, match="none of 2 states can be read"):
        load_newest(tmp_path, CPU)


def test_a_state_of_the_same_step_is_there_until_the_new_one_is(tmp_path, monkeypatch):
    save_state(tmp_path, 1, {"x": torch.tensor(1)}, keep=2)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StateError, match="No space left"):
        save_state(tmp_path, 1, {"x": torch.tensor(2)}, keep=2)
    assert int(load_newest(tmp_path, CPU)[1]["x"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@contextmanager
def small_disk():
    """Files of at most 1,000 bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_the_newest_state_stays(tmp_path):
    save_state(tmp_path, 1, {"x": torch.tensor(1)}, keep=1)
    with small_disk(), pytest.raises(StateError, match=r"cannot be written \(File too large\); .*make room"):
        save_state(tmp_path, 2, {"x": torch.zeros(1000)}, keep=1)
    assert load_newest(tmp_path, CPU)[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    model = AMT(ModelConfig())
    with small_disk(), pytest.raises((CheckpointError, OSError), match=r"cannot be written .*make room|File too large"):
        save_checkpoint(tmp_path / "checkpoint", model)
    assert not (tmp_path / "checkpoint").exists()


def test_leftovers_of_a_killed_run_are_cleared(tmp_path):
    save_state(tmp_path, 1, {"x": torch.tensor(1)}, keep=2)
    (tmp_path / ".tmp-step-00000002-0123abcd").mkdir()
    os.replace(tmp_path / "step-00000001", tmp_path / ".old-step-00000001-0123abcd")  # killed between two renames
    assert load_newest(tmp_path, CPU)[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_an_old_state_that_cannot_be_removed_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    save_state(tmp_path, 1, {"x": torch.tensor(1)}, keep=1)

    def refuse(*_, dir_fd=None):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        save_state(tmp_path, 2, {"x": torch.tensor(2)}, keep=1)
    assert load_newest(tmp_path, CPU)[0] == 2
    assert "cannot be removed" in caplog.text


def test_a_state_cannot_run_code(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    save_state(tmp_path, 1, {"x": Harmful()}, keep=1)
    with pytest.raises(StateError):
        load_newest(tmp_path, CPU)
    assert not (tmp_path / "ran").exists()


def test_the_log_is_never_without_its_earlier_lines(tmp_path, monkeypatch):
    """A full disk while a resumed run drops later lines: the file stays as it was."""
    path = tmp_path / "log.jsonl"
    steps = StepLog(path, 0)
    for step in range(4):
        steps.add(step=step, loss=torch.tensor(float(step)))
    steps.flush()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # killed in the middle of a line
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            StepLog(path, 2)
    assert path.read_bytes() == before
    again = StepLog(path, 2)
    again.add(step=2, loss=7.0)
    again.flush()
    assert [(row["step"], row["loss"]) for row in read_log(path)] == [(0, 0), (1, 1), (2, 7)]


def test_the_state_is_plain_enough_to_read(make_config):
    json.dumps(Trainer(make_config("plain")).state_dict()["run"])
