"""``key=value`` means the same in each program, and what is wrong with one is told in one line."""

import dataclasses
from importlib.resources import files

import pytest

from amt import config
from amt.config import ConfigError, compose, help_text, split_words
from amt.evaluate.config import PROGRAM as EVALUATE
from amt.model.config import ModelConfig
from amt.train.config import PROGRAM as TRAIN
from amt.train.config import Config

TRAINED = {
    "model": ModelConfig().as_dict(),
    "data": {"split": "s2", "workers": 3, "crop": {"size": 112, "margin": 1.2}},
}


def evaluated(*words):
    return compose(EVALUATE, words, TRAINED)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.rooot=x", r"data\.rooot: no such key; there are root, layout, split, protocol"),
        ("model.backbone.nam=x", r"model\.backbone\.nam: no such key; there are name, depth"),
        ("foo.bar=1", r"foo: no such section; there are model, data"),
        ("+foo.bar=1", r"foo: no such section; there are model, data"),
        ("data.workers=many", r"data\.workers: expected a whole number, got 'many'"),
        ("data.crop.margin=wide", r"data\.crop\.margin: expected a number, got 'wide'"),
        ("data.crop.alpha=perhaps", r"data\.crop\.alpha: expected true or false, got 'perhaps'"),
        ("data.workers=null", r"data\.workers: expected a whole number, got null"),
        ("data.crop=3", r"data\.crop=3: data\.crop is a section; give its keys values, such as data\.crop\.size=VALUE"),
        (
            "~data.workers",
            r"cannot read '~data\.workers': no key can be left out; give it a value, data\.workers=VALUE",
        ),
        ("data.root", r"cannot read 'data\.root': expected key=value, data\.root=VALUE"),
        ("=3", "cannot read '=3': expected key=value"),
        ("data.workers=-1", r"data\.workers must not be negative; got -1"),
        ("data.workers=(3", r"data\.workers: expected a whole number, got '\(3'"),
        ("nonsense", "cannot read 'nonsense': expected key=value"),
        ("data.split=s9", r"data\.split must be one of s0, s1, s2, s3; got 's9'"),
        ("data=enormous", "no configuration 'data/enormous'; there are dexycb, ho3d, synthetic"),
        ("data.crop.size=96", r"data\.crop\.size=96 contradicts model\.crop_size=112: leave data\.crop\.size out"),
        ("data.root=/nowhere/at/all", r"data\.root=/nowhere/at/all: no such folder; give the folder"),
        ("data.root=", r"data\.root is empty \(is its variable set\?\)"),
        ("data.cache=", r"data\.cache is empty \(is its variable set\?\)"),
        ("data=dexycb", r"data\.root is empty"),
        ("model.hand=/nowhere.pkl", r"model\.hand=/nowhere\.pkl: no such file; give the path of MANO_RIGHT\.pkl"),
        ("kernels.use=magic", r"kernels\.use must be one of auto, reference, native, triton, cuda; got 'magic'"),
    ],
)
@pytest.mark.parametrize("program", [TRAIN, EVALUATE], ids=["train", "evaluate"])
def test_a_mistake_is_one_line_and_the_same_in_each_program(program, word, message):
    given = None if program is TRAIN else TRAINED
    if word.startswith("model.backbone") and program is EVALUATE:
        message = r"model\.backbone\.nam has no effect in amt\.evaluate"
    with pytest.raises(ConfigError, match=message) as caught:
        compose(program, [word], given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("program", "word", "message"),
    [
        (
            EVALUATE,
            "train.device=cuda",
            r"train is a section of amt\.train; amt\.evaluate has model, data, evaluate, kernels",
        ),
        (
            TRAIN,
            "evaluate.subset=val",
            r"evaluate is a section of amt\.evaluate; amt\.train has model, data, train, kernels",
        ),
        (EVALUATE, "model.hidden=64", r"model\.hidden has no effect in amt\.evaluate"),
        (EVALUATE, "model=small", "model has no effect in amt.evaluate"),
        (EVALUATE, "experiment=demo", "experiment has no effect in amt.evaluate"),
        (EVALUATE, "data.augment.hue=1", r"data\.augment\.hue has no effect in amt\.evaluate"),
    ],
)
def test_a_key_without_effect_is_refused(program, word, message):
    with pytest.raises(ConfigError, match=message):
        compose(program, [word], None if program is TRAIN else TRAINED)


@pytest.mark.parametrize(
    "name", ["é", "数据", "a=b", "a(b", "a[b", "a#b", "a&b", "a b", "a,b", "it's", "a'\\b\\", "007", "1e3", "a{b}"]
)
def test_a_path_of_any_letters_is_taken(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    hand = folder / "MANO_RIGHT.pkl"
    hand.touch()
    words = [f"data.root={folder}", f"data.mano={folder}", f"model.hand={hand}"]
    for settings in (
        compose(TRAIN, [*words, f"train.output={folder}"]),
        evaluated(*words, f"evaluate.output={folder}/x"),
    ):
        assert settings["data"].root == settings["data"].mano == str(folder)
        assert settings["model"].hand == str(hand)
    assert compose(TRAIN, [f"train.output={name}"])["train"].output == name


def test_quotes_null_and_interpolations_stay_what_they_are_in_hydra(tmp_path):
    words = [f"data.root='{tmp_path}'", "train.checkpoint=null", "train.output=${data.root}/out"]
    settings = compose(TRAIN, words)
    assert settings["train"].output == f"{tmp_path}/out"
    assert settings["train"].checkpoint is None
    assert config.prepare(TRAIN, ["train.output=é,b", "data.root=choice(a,b)"], multirun=True) == [
        "train.output='é','b'",
        "data.root=choice(a,b)",
    ]


EXPERIMENTS = sorted(f.name.removesuffix(".yaml") for f in files("amt.configs").joinpath("experiment").iterdir())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_fits_the_schema_and_says_what_it_is_for(tmp_path, name):
    words = [f"experiment={name}"]
    if name.startswith(("dexycb", "ho3d")):
        with pytest.raises(ConfigError, match=r"data\.root is empty"):
            compose(TRAIN, words)
        words.append(f"data.root={tmp_path}")
    if name == "finetune":
        with pytest.raises(ConfigError, match=r"train\.finetune is empty"):
            compose(TRAIN, words)
        words = [*words, "train.finetune=null"]
    made = Config(**compose(TRAIN, words))
    size = {"dexycb": "base", "dexycb_large": "large", "ho3d": "base"}.get(name, "tiny")
    assert made.model.size == size
    assert made.train.freeze == [] or made.train.freeze[0] == [0, made.model.backbone.depth]
    assert name == "none" or made.train.output not in ("runs/train", "")
    small = Config(**compose(TRAIN, [*words, "model=small", "train.freeze=[]"]))  # words stand over an experiment
    assert small.model.size == "small"


def test_every_yaml_file_fits_the_schema(tmp_path):
    demo = Config(**compose(TRAIN, ["experiment=demo"]))
    assert demo.train.checkpoint == "demo/checkpoint"
    assert demo.data.split == "s1"
    for size, crop in (("tiny", 112), ("small", 224), ("base", 224), ("large", 224)):
        words = [f"model={size}", "data=dexycb", f"data.root={tmp_path}", "kernels=reference"]
        made = Config(**compose(TRAIN, words))
        assert made.model.size == size
        assert made.data.crop.size == crop  # the loader cuts what the model reads
        assert made.data.split == "s0"
        assert made.kernels.use == "reference"


def test_the_crop_follows_the_model_unless_it_is_given():
    assert compose(TRAIN, ["model.crop_size=224"])["data"].crop.size == 224
    assert compose(TRAIN, ["model.crop_size=224", "data.crop.size=224"])["data"].crop.size == 224
    with pytest.raises(ConfigError, match=r"data\.crop\.size=112 contradicts model\.crop_size=224"):
        Config(**{**compose(TRAIN, []), "model": ModelConfig(crop_size=224)})


def test_a_checkpoints_settings_stand_below_the_words():
    settings = evaluated("data.workers=1")
    assert settings["data"].split == "s2"
    assert settings["data"].workers == 1
    assert settings["data"].crop.margin == 1.2
    assert settings["model"] == ModelConfig()
    assert settings["evaluate"].subset == "test"
    assert dataclasses.asdict(evaluated()["data"]) == dataclasses.asdict(evaluated()["data"])
    older = {**TRAINED, "data": {**TRAINED["data"], "gone": 1, "augment": {"also_gone": 2}}}
    assert compose(EVALUATE, [], older)["data"] == evaluated()["data"]


def test_words_of_the_configuration_are_told_from_other_arguments():
    arguments = [
        "CK",
        "a=b.jpg",
        "data.root=x",
        "--out",
        "data/model=1.jpg",
        "kernels=auto",
        "train.x.y=1",
        "model.jpg",
    ]
    assert split_words(arguments) == (
        ["CK", "a=b.jpg", "--out", "data/model=1.jpg", "model.jpg"],
        ["data.root=x", "kernels=auto", "train.x.y=1"],
    )


def test_the_variable_of_the_kernels_is_the_default(monkeypatch):
    monkeypatch.setenv("AMT_KERNELS", "reference")
    assert compose(TRAIN, [])["kernels"].use == evaluated()["kernels"].use == "reference"
    assert compose(TRAIN, ["kernels.use=native"])["kernels"].use == "native"
    assert compose(TRAIN, ["kernels=auto"])["kernels"].use == "auto"
    monkeypatch.setenv("AMT_KERNELS", "magic")
    with pytest.raises(ConfigError, match=r"kernels\.use must be one of .*; got 'magic' \(from AMT_KERNELS\)"):
        compose(TRAIN, [])
    monkeypatch.delenv("AMT_KERNELS")
    assert compose(TRAIN, [])["kernels"].use == "auto"


def test_a_set_is_rendered_only_where_no_other_is_named_and_that_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("amt.data.synthetic.write.write_set", lambda folder, *_: folder)
    settings = compose(TRAIN, [f"data.cache={tmp_path}"])
    assert settings["data"].root_folder() == settings["data"].root_folder() == tmp_path / "synthetic-12x3"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"data.root is not given: the synthetic set {tmp_path}/synthetic-12x3 serves" in said
    assert compose(TRAIN, [f"data.root={tmp_path}"])["data"].root_folder() == tmp_path
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("program", [TRAIN, EVALUATE], ids=["train", "evaluate"])
def test_help_names_every_key_that_is_taken_and_no_other(program):
    text = help_text(program)
    named = {line.split("=")[0].strip() for line in text.splitlines() if "=" in line}
    for key, _ in config._keys(program):
        assert (key in named) == program.takes_key(key), key


def test_all_wrong_keys_and_types_are_told_at_once_and_before_a_wrong_path():
    words = ["data.root=/nowhere", "train.stepz=3", "train.lr=fast", "evaluate.subset=val", "train.steps=0"]
    with pytest.raises(ConfigError) as caught:
        compose(TRAIN, words)
    told = str(caught.value).split("; and ")
    assert [line.partition(":")[0] for line in told] == ["evaluate.subset=val", "train.stepz", "train.lr"]
    with pytest.raises(ConfigError, match="no such folder"):
        compose(TRAIN, [words[0]])


def test_what_only_hydra_can_judge_is_left_to_it():
    words = ["train.steps=7", "train.lr=1e-3", "model.joint_scale=True", "train.loss_schedule.joints=[[0,1],[9,2]]"]
    settings = compose(TRAIN, [*words, "train.warmup_steps=${train.steps}", "train.seed='4'"])
    assert (settings["train"].lr, settings["train"].warmup_steps, settings["train"].seed) == (1e-3, 7, 4)
    assert settings["train"].loss_schedule == {"joints": [[0, 1], [9, 2]]}
    assert config.prepare(TRAIN, ["train.seed=1,2", "train.lr=choice(1,2)"], multirun=True)
    with pytest.raises(ConfigError, match=r"train\.seed: expected a whole number, got 'x'"):
        config.prepare(TRAIN, ["train.seed=1,x"], multirun=True)
