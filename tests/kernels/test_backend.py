"""Which implementation an op takes: `use`, AMT_KERNELS, the reasons, and what `python -m amt.kernels` says about them."""

import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch

import amt.kernels
from amt.kernels import BackendUnavailable, _backend, _checks, _native, use
from amt.kernels.__main__ import main
from amt.kernels.fp8_linear import epilogue

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def loaded():
    """The implementations of "probe" that were loaded, in order."""
    return []


@pytest.fixture
def op(monkeypatch, loaded):
    """An op "probe" with a fast implementation that runs for float32 on the CPU only, and a reference."""
    monkeypatch.setattr(_backend, "_implementations", dict(_backend._implementations))
    monkeypatch.setattr(_backend, "_resolved", {})
    monkeypatch.setattr(_backend, "_warned", set())
    monkeypatch.setattr(_backend, "_choice", "auto")

    def loads(name):
        def load():
            loaded.append(name)
            return lambda: name

        return load

    def reason(device, dtype):
        if device.type != "cpu":
            return "it runs on the CPU"
        return None if dtype == torch.float32 else f"it has no {dtype}"

    fast = _backend.Implementation("native", loads("native"), reason)
    slow = _backend.Implementation(
        "reference", loads("reference"), _backend.runs_everywhere, fast=False, transforms=True
    )
    _backend.register("probe", [fast, slow])
    return "probe"


def run(op, device=CPU, dtype=torch.float32):
    return _backend.choose(op, device, dtype)()


def test_auto_takes_the_first_that_can_run(op):
    assert run(op) == "native"


def test_auto_says_once_what_it_passed_over(op):
    with pytest.warns(
        UserWarning, match=r"amt.kernels.probe on cuda in torch.float32 runs as 'reference': native: it runs on the CPU"
    ):
        assert run(op, CUDA) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(op, CUDA) == "reference"
    with pytest.warns(UserWarning, match="has no torch.bfloat16"):
        assert run(op, CPU, torch.bfloat16) == "reference"


def test_an_implementation_is_loaded_when_it_is_chosen_for_the_first_time(op, loaded):
    assert loaded == []
    _backend.explain(op, CPU, torch.float32)
    assert loaded == []
    run(op)
    run(op)
    assert loaded == ["native"]
    with use("reference"):
        run(op)
    assert loaded == ["native", "reference"]


@pytest.mark.parametrize("device", ["meta", "mps", "xpu"])
def test_every_other_device_reaches_the_reference(device):
    for name in _backend.registered():
        able = [i for i, reason in _backend.explain(name, torch.device(device), torch.float32) if reason is None]
        assert set(able) <= {"reference", "sdpa"}, name  # PyTorch has attention for every device
        assert "reference" in able, name


def test_calls_on_meta(recwarn):
    """The definitions give shapes and gradients; nothing is computed, so that no warning is due."""
    e4m3 = torch.empty(16, 16, dtype=torch.float8_e4m3fn, device="meta")
    calls = {
        "hand_frames": lambda x: amt.kernels.hand_frames(x(2, 21, 3)),
        "frame_pointnet": lambda x: amt.kernels.frame_pointnet(
            x(2, 5, 3), x(2, 22, 3), x(2, 22, 3, 3), x(4, 3), x(22, 4), x(6, 4), x(6)
        ),
        "attention": lambda x: amt.kernels.attention(x(1, 2, 7, 64), x(1, 2, 7, 64), x(1, 2, 7, 64)),
        "add_norm": lambda x: amt.kernels.block.add_norm(x(2, 8), x(2, 8), x(8), x(8), x(8))[1].plain,
        "linear_gelu": lambda x: amt.kernels.block.linear_gelu(x(2, 8), x(4, 8), x(4)),
        "gelu_quantize": lambda x: amt.kernels.block.gelu_quantize(x(2, 8), x(8)).plain,
        "attention_fp8": lambda x: amt.kernels.attention(*[x(1, 2, 7, 64)] * 3, precision="fp8"),
        "fp8_linear": lambda x: epilogue.fused((e4m3, x(16, 1)), (e4m3, x(16, 1)), x(16), gelu=True),
        "refine": lambda x: amt.kernels.refine(
            x(2, 21, 3),
            x(2, 3, 3),
            [x(2, 4, 4, 3)],
            amt.kernels.RefineWeights(x(2, 8, 6), x(2, 21, 8), x(2, 3, 8), x(2, 3)),
            image_size=(16, 16),
        ),
        "normalize": lambda x: amt.kernels.normalize(
            torch.empty(2, 3, 4, 4, dtype=torch.uint8, device="meta"), x(3), x(3)
        ),
        "pose_scores": lambda x: amt.kernels.pose_scores(
            *(x(2, 5, 4, 4), x(2, 4, 4, 4), x(2, 5, 3), x(2, 5, 3), x(2, 7, 3, 3), x(2, 7, 3), x(2, 3, 3)),
            image_size=(16, 16),
        ),
    }
    assert set(calls) == set(_backend.registered())
    for name, call in calls.items():
        inputs = []

        def draw(*shape, inputs=inputs):
            inputs.append(torch.empty(shape, device="meta", requires_grad=True))
            return inputs[-1]

        outputs = call(draw)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        assert all(out.device.type == "meta" for out in outputs), name
        gradients = torch.autograd.grad(sum(out.sum() for out in outputs), inputs, allow_unused=True)
        assert all(g is None or g.device.type == "meta" for g in gradients), name
        assert any(g is not None for g in gradients), name
    assert not recwarn.list


def test_no_warning_where_the_fast_one_runs(op, recwarn):
    run(op)
    run(op)
    assert not recwarn.list


def test_use_forces_and_restores(op):
    with use("reference"):
        assert run(op) == "reference"
        with use("native"):
            assert run(op) == "native"
        assert run(op) == "reference"
    assert run(op) == "native"


def test_use_restores_after_an_error(op):
    with pytest.raises(ZeroDivisionError), use("reference"):
        raise ZeroDivisionError
    assert run(op) == "native"


def test_an_explicit_choice_that_cannot_run_raises_with_the_reason(op):
    with (
        use("native"),
        pytest.raises(
            BackendUnavailable, match=r"probe: 'native' cannot run on cuda in torch.float32: it runs on the CPU"
        ),
    ):
        run(op, CUDA)
    with (
        use("triton"),
        pytest.raises(BackendUnavailable, match=r"probe has no implementation 'triton'; it has native, reference"),
    ):
        run(op)


@pytest.mark.parametrize(
    "transform", [torch.vmap, lambda f: torch.func.grad(lambda x: f(x).sum())], ids=["vmap", "grad"]
)
def test_auto_passes_over_custom_ops_under_torch_func(op, transform):
    taken = []
    call = transform(lambda x: taken.append(run(op)) or x)
    with pytest.warns(UserWarning, match=r"runs as 'reference': native: it does not run under torch\.func"):
        call(torch.zeros(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(torch.zeros(3))  # said once
        assert run(op) == "native"  # and outside as before
    assert taken == ["reference", "reference"]


def test_the_warning_under_torch_func_names_what_would_have_run_and_the_users_line():
    """refine's list begins with CUDA's back ends for a CUDA tensor and holds them for a CPU's, too."""
    _backend._warned.clear(), _backend._resolved.clear()
    weights = amt.kernels.RefineWeights(*(torch.randn(s) for s in ((2, 8, 6), (2, 21, 8), (2, 3, 8), (2, 3))))
    camera, maps = torch.eye(3)[None], [torch.randn(1, 4, 4, 3)]
    with pytest.warns(UserWarning, match=r"refine on cpu .* runs as 'reference': native: ") as caught:
        torch.vmap(lambda j: amt.kernels.refine(j, camera, maps, weights, image_size=(16, 16)))(
            torch.randn(2, 1, 21, 3)
        )
    assert "cuda" not in str(caught[0].message)
    assert "triton" not in str(caught[0].message)
    assert caught[0].filename == __file__


def test_auto_passes_over_custom_ops_in_forward_mode(op):
    with torch.autograd.forward_ad.dual_level(), pytest.warns(UserWarning, match="forward-mode AD"):
        assert run(op) == "reference"
    assert run(op) == "native"


def test_an_explicit_choice_is_refused_under_torch_func(op):
    refused = pytest.raises(
        BackendUnavailable, match=r"probe: 'native' cannot run on cpu .* does not run under torch\.func"
    )
    with use("native"), refused:
        torch.vmap(lambda x: run(op) and x)(torch.zeros(3))
    with use("reference"):
        torch.vmap(lambda x: run(op) and x)(torch.zeros(3))


def test_use_refuses_an_unknown_name():
    with (
        pytest.raises(ValueError, match=r"must be one of auto, reference, native, triton, cuda, got 'fast'"),
        use("fast"),
    ):
        pass


def test_nothing_that_can_run_is_an_error_with_every_reason(op):
    _backend.register("probe", [_backend.Implementation("native", None, lambda device, dtype: "it is broken")])
    with pytest.raises(BackendUnavailable, match=r"probe cannot run on cpu in torch.float32: native: it is broken"):
        run(op)


def test_every_op_has_a_reference_that_runs_everywhere():
    assert set(_backend.registered()) >= {"refine", "hand_frames", "frame_pointnet", "attention", "attention_fp8"}
    for name in _backend.registered():
        for device in (CPU, CUDA):
            for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
                assert dict(_backend.explain(name, device, dtype))["reference"] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_reasons_are_sentences_a_user_can_act_on(dtype):
    for name in _backend.registered():
        for device in (CPU, CUDA):
            for implementation, reason in _backend.explain(name, device, dtype):
                assert reason is None or (len(reason) > 10 and not reason.endswith(".")), (name, implementation, reason)


def python(*arguments, **variables):
    environment = {**os.environ, **variables}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120)


def test_environment_variable_sets_the_default_and_a_wrong_one_is_refused():
    show = "from amt.kernels import _backend; print(_backend._choice)"
    assert python("-c", show, AMT_KERNELS="reference").stdout.strip() == "reference"
    wrong = python("-c", show, AMT_KERNELS="fastest")
    assert wrong.returncode != 0
    assert "the environment variable AMT_KERNELS must be one of auto" in wrong.stderr


def test_library_that_is_missing_or_broken_is_a_reason_not_an_import_error(tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    show = "import amt.kernels; from amt.kernels import _native; print(_native.missing('hand_frames', 'cpu'))"
    none = tmp_path / "none.so"
    missing = f"the environment variable AMT_NATIVE_LIBRARY names {none}, which does not exist"
    assert missing in python("-c", show, AMT_NATIVE_LIBRARY=str(none)).stdout
    assert "broken.so does not load" in python("-c", show, AMT_NATIVE_LIBRARY=str(broken)).stdout


def test_main_says_why_the_native_library_is_off(tmp_path):
    done = python("-m", "amt.kernels", AMT_NATIVE_LIBRARY=str(tmp_path / "none.so"), AMT_KERNELS="auto")
    assert done.returncode == 0, done.stderr
    reason = f"the environment variable AMT_NATIVE_LIBRARY names {tmp_path / 'none.so'}, which does not exist"
    assert f"native library: off, {reason}\n" in done.stdout
    for op in ("hand_frames", "frame_pointnet", "refine"):
        assert f"  {op:15} reference\n" in done.stdout
    assert f"not native: {reason}\n" in done.stdout


def test_a_library_that_was_never_built_is_a_reason_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.delenv("AMT_NATIVE_LIBRARY", raising=False)
    monkeypatch.setattr(_native, "LIBRARY", tmp_path / "_native.so")
    assert "the native library is not built: install a C++ compiler" in _native._load()


def test_missing_names_the_device_type_and_an_op_of_an_older_build(monkeypatch):
    if _native._reason is not None:
        assert _native.missing("hand_frames", "cpu") == _native._reason
        return
    assert "device type 'xpu'" in _native.missing("hand_frames", "xpu")
    assert "holds no no_such_op" in _native.missing("no_such_op", "cpu")
    if not torch.ops.amt.built_with_cuda():
        assert "built without nvcc" in _native.missing("hand_frames", "cuda")


def test_main_names_every_op_what_it_takes_and_why_not_another(op, capsys):
    main()
    out = capsys.readouterr().out
    assert "choice 'auto' (AMT_KERNELS)" in out
    assert "other attention libraries: flash-attn " in out
    assert "\non cpu, float32:\n" in out
    assert "  probe           native\n" in out
    assert "  probe           reference\n" in out
    assert "not native: it has no torch.bfloat16" in out


def test_main_under_an_explicit_choice(op, capsys):
    with use("native"):
        main()
    out = capsys.readouterr().out
    float32, bfloat16 = out.split("\non cpu, bfloat16:")
    assert "  probe           native\n" in float32
    assert "  probe           nothing: calling it raises\n" in bfloat16


CHECKS = {
    "type": (3, TypeError, r"op: x must be a tensor, got int"),
    "dtype": (torch.zeros(2, 3, dtype=torch.int64), TypeError, r"op: x must be torch.float32, got torch.int64"),
    "dimensions": (torch.zeros(2), ValueError, r"op: x must have the shape \[B, 3\], got \[2\]"),
    "size": (torch.zeros(2, 4), ValueError, r"op: x must have the shape \[B, 3\], got \[2, 4\]"),
    "device": (
        torch.zeros(2, 3, device="meta"),
        ValueError,
        r"op: x must be on cpu as the first argument is, got meta",
    ),
}


@pytest.mark.parametrize(("value", "error", "message"), CHECKS.values(), ids=CHECKS)
def test_checks_name_the_argument_what_was_expected_and_what_came(value, error, message):
    with pytest.raises(error, match=message):
        _checks.tensor("op", "x", value, ("B", 3), (torch.float32,), like=torch.zeros(1))


def test_public_names():
    assert {"attention", "frame_pointnet", "hand_frames", "pose_scores", "refine", "use", "RefineWeights"} <= set(
        amt.kernels.__all__
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler, so no native library")
@pytest.mark.parametrize("op", ["refine", "hand_frames", "frame_pointnet", "pose_scores"])
def test_the_native_library_is_there_where_a_compiler_is(op):
    """The native tests skip without it, so that its absence must show here."""
    assert _native.missing(op, "cpu") is None
