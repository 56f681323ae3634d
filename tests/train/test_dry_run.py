"""--dry-run: one step of everything, on trees of the recorded sets' shapes; nothing is left behind."""

import os
import re
import sys
from pathlib import Path

import pytest
from fixed_loader import SMALL

from amt.config import compose
from amt.train.__main__ import main
from amt.train.config import PROGRAM, Config
from amt.train.dry_run import DRY_STEPS, shrunk

OTHERS = ("matplotlib", "torchinductor_")  # caches that libraries make for themselves when they are first used
TINY = [f"model.{name}={value}" for name, value in SMALL.items() if name != "crop_size"]


@pytest.fixture
def dry(monkeypatch, capfd, tmp_path):
    """Runs the command in an empty folder, with a cache and temporary files in others; all three must stay empty."""
    folders = [tmp_path / name for name in ("here", "cache", "temporary")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders[1]))
    monkeypatch.setenv("TMPDIR", str(folders[2]))
    monkeypatch.setattr("tempfile.tempdir", None)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["amt.train"])
        status = main([*words, "train.device=cpu", "--dry-run"])
        out, err = capfd.readouterr()
        left = [path for folder in folders for path in folder.iterdir()]
        return status, out, err, [path for path in left if not path.name.startswith(OTHERS)]

    return run


def experiment(name, root, crop=28):
    """The experiment with all that it says, but for sizes: one block of DINOv2, which nobody has downloaded."""
    backbone = ["weights=none", "require_pretrained=false", "name=dinov2-small", "depth=1", "registers=0"]
    words = [f"experiment={name}", f"data.root={root}", *TINY, f"model.crop_size={crop}"]
    words += [f"model.backbone.{word}" for word in backbone]
    return [*words, "train.freeze=[[0,1],[2000,0]]", "train.batch_size=2", "data.workers=0", "train.threads=1"]


@pytest.fixture(scope="module")
def full_tree(tmp_path_factory):
    """DexYCB's 10 subjects x 100 sequences x 8 cameras, one frame each."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
    from layout_files import write_tree

    return write_tree(tmp_path_factory.mktemp("dexycb"), 10, 100, lambda _: 1)


@pytest.mark.filterwarnings("ignore:.*starts at random")
def test_dexycb_composes_and_steps_on_a_tree_of_its_full_shape(full_tree, dry):
    pytest.importorskip("transformers")
    status, out, err, left = dry(*experiment("dexycb", full_tree))
    assert status == 0, err
    assert left == []
    assert "dry run: everything was done once" in out
    assert f"data: dexycb s0 train, 6,400 frames at {full_tree}" in out
    assert "model: base, dinov2-small" in out
    assert "memory of a step: about" in out
    seconds = float(re.search(r"a step of 2 images: (\S+) s, \S+ images/s, loss \d", out)[1])
    assert seconds > 0
    assert re.search(r"a state of \S+ [GM]B and a checkpoint of \S+ [GM]B were written and read back", out)
    assert "the real run: 60,000 steps in about" in out
    assert "into runs/dexycb-base" in out


def test_without_a_set_one_is_rendered_into_the_temporary_folder(dry, full_tree, monkeypatch, tmp_path):
    asked = []

    def write_set(folder, config, workers):
        asked.append((folder, config.num_pictures))
        return full_tree

    monkeypatch.setattr("amt.data.synthetic.write.write_set", write_set)
    status, out, err, left = dry(*TINY, "model.crop_size=32", "train.batch_size=4", "train.threads=1")
    assert status == 0, err
    assert left == []
    assert {count for _, count in asked} == {80}
    assert all(folder.is_relative_to(tmp_path / "temporary") for folder, _ in asked)
    assert "data.root is not given, a synthetic set of 2,880 frames would be rendered first" in out


def test_what_the_real_run_would_refuse_is_refused(full_tree, dry):
    status, _, err, left = dry(
        *TINY, "model.crop_size=32", f"data.root={full_tree}", "data.window=2", "train.batch_size=2"
    )
    assert status == 2
    assert "amt.train: no camera has 2 frames, 1 apart, without a gap" in err
    assert left == []


def test_the_rehearsal_shortens_the_locator_s_phase_too(tmp_path, full_tree):
    words = ["experiment=dexycb", f"data.root={full_tree}", "train.locator.steps=3000"]
    locator = shrunk(Config(**compose(PROGRAM, words)), tmp_path).train.locator
    assert (locator.steps, locator.frames) == (3, 128)


def test_the_rehearsal_differs_in_length_and_place_alone(tmp_path, full_tree):
    config = Config(
        **compose(PROGRAM, ["experiment=dexycb", f"data.root={full_tree}", "data.window=2", "data.stride=3"])
    )
    small = shrunk(config, tmp_path)
    assert small.model == config.model
    assert small.data.limit == 2 * 64 * 4
    changed = {key for key in vars(config.train) if getattr(small.train, key) != getattr(config.train, key)}
    assert changed <= {
        "output",
        "steps",
        "save_every",
        "log_every",
        "collapse_checks",
        "logger",
        "checkpoint",
        "minutes",
    }
    assert small.train.steps == DRY_STEPS
    assert not os.listdir(tmp_path)
