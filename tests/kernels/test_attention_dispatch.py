"""Which back end attention takes: by name with its reason, by a card's table, and the tuning that writes one."""

import json
import sys
import types

import pytest
import torch

from amt.kernels import BackendUnavailable, attention
from amt.kernels.__main__ import main
from amt.kernels.attention import back_ends, dispatch, sdpa, tune
from amt.kernels.attention.dispatch import Shape, Table

Q = torch.randn(1, 2, 9, 64, generator=torch.Generator().manual_seed(0))
ROWS = [
    {
        "tokens": 257,
        "heads": 256,
        "size": 64,
        "dtype": "bfloat16",
        "backward": False,
        "ms": {"sdpa": 2.0, "triton": 1.0},
    },
    {
        "tokens": 577,
        "heads": 256,
        "size": 64,
        "dtype": "bfloat16",
        "backward": False,
        "ms": {"sdpa_cudnn": 1.0, "triton": 2.0},
    },
    {
        "tokens": 257,
        "heads": 16,
        "size": 64,
        "dtype": "bfloat16",
        "backward": False,
        "ms": {"sdpa": 1.0, "triton": 2.0},
    },
]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sdpa_cudnn", "it runs on CUDA tensors only, got cpu"),
        ("fa2", "flash-attn is not installed"),
        ("fa3", "flash-attn-3 is not installed"),
        ("fa4", "flash-attn-4 is not installed"),
        ("xformers", "xformers is not installed"),
        ("te", "transformer-engine is not installed"),
        ("flex", "it runs on CUDA tensors only"),
    ],
)
def test_a_named_back_end_that_cannot_run_says_why(name, reason, monkeypatch):
    monkeypatch.setattr(back_ends, "_version", lambda distribution: None)
    with pytest.raises(BackendUnavailable, match=f"backend '{name}' cannot run: {reason}"):
        attention(Q, Q, Q, backend=name)


def test_names_are_checked():
    with pytest.raises(ValueError, match=r"one of auto, sdpa, sdpa_cudnn, .* got 'fast'"):
        attention(Q, Q, Q, backend="fast")
    for backend in ([], None, 3):
        with pytest.raises(
            TypeError, match=f"backend must be text, such as 'auto' or 'sdpa', got {type(backend).__name__}"
        ):
            attention(Q, Q, Q, backend=backend)
    with pytest.raises(ValueError, match="'fp8' has one implementation; backend must be auto, got 'sdpa'"):
        attention(Q, Q, Q, backend="sdpa", precision="fp8")
    assert torch.equal(attention(Q, Q, Q, backend="sdpa"), attention(Q, Q, Q))


@pytest.mark.parametrize(
    ("name", "module", "function", "scale"),
    [
        ("fa2", "flash_attn.flash_attn_interface", "flash_attn_func", "softmax_scale"),
        ("fa3", "flash_attn_interface", "flash_attn_func", "softmax_scale"),
        ("fa4", "flash_attn.cute", "flash_attn_func", "softmax_scale"),
        ("xformers", "xformers.ops", "memory_efficient_attention", "scale"),
    ],
)
def test_libraries_get_tokens_before_heads(name, module, function, scale, monkeypatch):
    def theirs(q, k, v, **factor):
        out = sdpa.attention(*(x.transpose(1, 2) for x in (q, k, v)), factor[scale]).transpose(1, 2)
        return (out, None) if name == "fa4" else out

    stub = types.ModuleType(module)
    setattr(stub, function, theirs)
    for part in range(1, module.count(".") + 1):
        parent = ".".join(module.split(".")[:part])
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, module, stub)
    run = back_ends.BACK_ENDS[name].load()
    torch.testing.assert_close(run(Q, 2 * Q, Q, 0.3), sdpa.attention(Q, 2 * Q, Q, 0.3))


def test_transformer_engine_gets_its_module_once_for_each_shape(monkeypatch):
    made = []

    class DotProductAttention:
        def __init__(self, heads, size, **options):
            made.append((heads, size, options["softmax_scale"]))

        def __call__(self, q, k, v):
            out = sdpa.attention(*(x.transpose(1, 2) for x in (q, k, v)), made[-1][2])
            return out.transpose(1, 2).flatten(2)

    stub = types.ModuleType("transformer_engine.pytorch")
    stub.DotProductAttention = DotProductAttention
    monkeypatch.setitem(sys.modules, "transformer_engine", types.ModuleType("transformer_engine"))
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", stub)
    run = back_ends.BACK_ENDS["te"].load()
    for _ in range(2):
        torch.testing.assert_close(run(Q, 2 * Q, Q, 0.3), sdpa.attention(Q, 2 * Q, Q, 0.3))
    assert made == [(2, 64, 0.3)]


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        (Shape(257, 256, 64, "bfloat16", False), "triton"),
        (Shape(261, 192, 64, "bfloat16", False), "triton"),
        (Shape(577, 256, 64, "bfloat16", False), "sdpa_cudnn"),
        (Shape(257, 16, 64, "bfloat16", False), "sdpa"),
        (Shape(2048, 256, 64, "bfloat16", False), "sdpa"),  # far from all that was measured
        (Shape(257, 256, 64, "bfloat16", True), "sdpa"),  # no backward was measured
        (Shape(257, 256, 128, "bfloat16", False), "sdpa"),
        (Shape(0, 256, 64, "bfloat16", False), "sdpa"),
    ],
)
def test_the_nearest_measured_shape_decides(shape, name):
    assert dispatch.fastest(Table(ROWS), shape) == name


def test_without_a_table_pytorch_chooses(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dispatch.table_for.cache_clear()
    table = dispatch.table_for("A card that nobody measured")
    assert not table
    assert dispatch.fastest(table, Shape(257, 256, 64, "bfloat16", False)) == "sdpa"


def test_the_users_table_comes_before_the_one_that_ships(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(dispatch, "SHIPPED", tmp_path / "shipped")
    dispatch.write(dispatch.SHIPPED / "nvidia-h200.json", "NVIDIA H200", ROWS[1:2])
    dispatch.table_for.cache_clear()
    assert [name for _, name in dispatch.table_for("NVIDIA H200").measured] == ["sdpa_cudnn"]
    dispatch.write(dispatch.user_folder() / dispatch.file_name("NVIDIA H200"), "NVIDIA H200", ROWS)
    dispatch.table_for.cache_clear()
    assert len(dispatch.table_for("NVIDIA H200")) == 3
    dispatch.table_for.cache_clear()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting"),
        ('{"rows": []}', "no 'schema'"),
        ('{"schema": 9, "rows": []}', "schema 9, expected 1"),
        (json.dumps({"schema": 1, "rows": [{**ROWS[0], "ms": {"magic": 1.0}}]}), "unknown back end magic"),
    ],
)
def test_a_broken_table_is_named_with_its_remedy(tmp_path, content, reason):
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ValueError, match=rf"card.json is no table of attention \({reason}.*amt.kernels tune"):
        dispatch.read(tmp_path / "card.json")


def test_tuning_measures_checks_and_writes(tmp_path, capsys, monkeypatch):
    def broken(q, k, v, scale):
        return torch.zeros_like(q) + 0 * q * k * v

    def failing(q, k, v, scale):
        raise RuntimeError("no such kernel\nand more")

    wrong = {"wrong": broken, "failing": failing}
    some = {"sdpa": back_ends.BACK_ENDS["sdpa"], "sdpa_cudnn": back_ends.BACK_ENDS["sdpa_cudnn"]}
    some |= {n: back_ends.BackEnd(n, lambda q, k: None, lambda n=n: wrong[n]) for n in wrong}
    monkeypatch.setattr(tune, "BACK_ENDS", some)
    monkeypatch.setattr(dispatch, "BACK_ENDS", some)
    dispatch.loaded.cache_clear()
    main(["tune", "--dry", "--output", str(tmp_path / "cpu.json")])
    printed = capsys.readouterr().out
    assert "wrong is left out: its error is 1" in printed
    assert "failing is left out: no such kernel\n" in printed
    assert "sdpa_cudnn" not in printed
    table = dispatch.read(tmp_path / "cpu.json")
    assert [(shape.tokens, shape.backward, name) for shape, name in table.measured] == [
        (17, False, "sdpa"), (17, True, "sdpa"), (33, False, "sdpa"), (33, True, "sdpa")]  # fmt: skip
    dispatch.loaded.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_tuning_without_a_card_is_refused(capsys):
    assert main(["tune"]) == 2
    assert "no CUDA card to measure; --dry" in capsys.readouterr().err


def test_where_no_table_can_be_written_nothing_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tune, "measure", None)
    assert main(["tune", "--dry", "--output", str(tmp_path)]) == 2
    assert f"--output: {tmp_path} is a folder; name a file, such as {tmp_path / 'card.json'}" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["tune", "--dry", "--output", str(tmp_path / "file" / "card.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("words", [["--dry"], ["--output", "table.json"]])
def test_words_of_tune_alone_are_refused(words, capsys):
    assert main(words) == 2
    assert "--output and --dry belong to tune" in capsys.readouterr().err


def test_a_tuning_that_is_cut_off_keeps_the_earlier_rows_of_other_shapes(tmp_path):
    from amt.kernels import _table

    path = tmp_path / "card.json"
    assert _table.earlier_rows(None, "cpu") == _table.earlier_rows(path, "cpu") == []
    _table.write(path, "cpu", [{"tokens": 17, "ms": {"sdpa": 1.0}}, {"tokens": 33, "ms": {"sdpa": 2.0}}])
    earlier = _table.earlier_rows(path, "cpu")
    rows = _table.merged(earlier, [{"tokens": 33, "ms": {"triton": 0.5}}])
    assert rows == [{"tokens": 33, "ms": {"triton": 0.5}}, {"tokens": 17, "ms": {"sdpa": 1.0}}]
    assert _table.earlier_rows(path, "another card") == []
    path.write_text("{")
    assert _table.earlier_rows(path, "cpu") == []
