"""The one harness: what a benchmark declares (:class:`Case`) and how it is measured (:func:`measure`).

A file ``bench_<what>.py`` holds

    PART = "ops"                                   # the part of the campaign: ops, model, train, launch or encoder

    def cases(device, quick):                      # yields a Case for every shape and dtype
        ...

    def test_<what>(case, measured):               # pytest benchmarks; conftest.py gives both arguments
        measured(case)

and ``python -m benchmarks.run`` measures the same cases without pytest. Correctness comes first: the op and every rival are
held to float64, and what breaks the error rule gets no time. Then all are timed interleaved on rotated inputs, on a GPU also
as CUDA graphs, and what remains is counted: peak memory, launches, shares of the machine's ceilings.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch.utils import _pytree as pytree

from amt.kernels.testing import error_rule
from benchmarks import ceilings as machine
from benchmarks import memory, timing
from benchmarks.compare import AUTOTUNED, like_with_like
from benchmarks.results import load_mark

ROUNDS, QUICK_ROUNDS = 30, 3
AUTOTUNE = "max-autotune-no-cudagraphs"  # the mode behind AUTOTUNED
MAX_SETS = 8  # sets of inputs that rotate
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Incorrect(AssertionError):
    """The op breaks the error rule: it gets no time."""


class Unavailable(RuntimeError):
    """What the benchmark needs is not there; the message says what."""


@dataclass(frozen=True)
class Rival:
    """Another way to compute the same. ``prepare`` turns a set of inputs into the rival's own layout, outside the clock."""

    function: Callable
    prepare: Callable[..., tuple] = lambda *inputs: inputs


@dataclass(frozen=True)
class Case:
    """One shape and dtype of one op.

    Args:
        op: the op's name; a label such as "frame_pointnet".
        shape: sizes by name, as the tables show them: {"B": 256, "C": 256}.
        dtype: under which the result is filed, and whose matrix ceiling the arithmetic is held against.
        device: where it runs.
        inputs: ``inputs(generator)`` draws one set on ``generator.device``: a tuple of tensors and of tuples of tensors.
        ours, eager: the public op and the plain PyTorch that users would write; both take the inputs as they come.
        flops, bytes: counted for one call of the whole pass: a multiply-add is two, inputs are read once, outputs written once.
        backward: time forward and backward; the gradients of every floating input that is not in ``constants`` are checked.
        rivals: further ways by name; each is timed, the fastest counts. "compiled" is added by itself, and on a GPU
            "compiled max-autotune".
        variants: other implementations of ours, timed for the choice tables; one whose name begins with "ours" (such as
            "ours compiled") counts as ours.
        truth: float64 computation of the same, on inputs upcast; ``eager`` where it is not given.
        check: ``check(generator)`` draws smaller inputs for the comparison, where the full ones are too large for float64.
        constants: positions, in the flattened inputs, of tensors that need no gradient.
        bound: largest relative error of ours where eager at the same dtype is no yardstick (FP8); else 2 x eager's + rounding.
        samples: images a call, for images/s.
        matrix: the ceiling's name where it is not ``dtype``'s, such as "float8_e4m3fn".
        compile: whether to time torch.compile of ``eager``.
        graph: whether to time CUDA graphs; False for what synchronises, such as a whole training step.
        autograd_thread: whether the backward pass runs in autograd's worker thread, PyTorch's default; False: on the caller's.
        verify: takes the place of the comparison with float64 where there is none to be had: returns the errors by name.
    """

    op: str
    shape: dict[str, int | str]
    dtype: torch.dtype
    device: torch.device
    inputs: Callable[[torch.Generator], tuple]
    ours: Callable
    eager: Callable
    flops: float
    bytes: float
    backward: bool = False
    rivals: dict[str, Rival | Callable] = field(default_factory=dict)
    variants: dict[str, Rival | Callable] = field(default_factory=dict)
    truth: Callable | None = None
    check: Callable[[torch.Generator], tuple] | None = None
    constants: tuple[int, ...] = ()
    bound: float | None = None
    samples: int | None = None
    matrix: str | None = None
    compile: bool = True
    graph: bool = True
    autograd_thread: bool = True
    verify: Callable[[], dict[str, float]] | None = None

    @property
    def label(self) -> str:
        if not self.backward:
            return "forward"
        return "forward+backward" if self.autograd_thread else "forward+backward, autograd on the caller's thread"

    def __str__(self) -> str:
        shape = "-".join(f"{name}{size}" for name, size in self.shape.items())
        return f"{self.op}-{shape}-{machine.name_of(self.dtype)}-{self.label}"

    def record(self) -> dict:
        """The part of a record that says what was measured."""
        return {
            "op": self.op,
            "pass": self.label,
            "shape": dict(self.shape),
            "dtype": machine.name_of(self.dtype),
            "device": self.device.type,
        }


def measure(case: Case, ceilings: dict, quick: bool = False, limit: float | None = None, compiled: bool = True) -> dict:
    """Checks, then times ``case``; returns its record (see :class:`benchmarks.results.Results`).

    Args:
        ceilings: of :func:`benchmarks.ceilings.measure`, taken in the same run; without them no share is given.
        quick: few rounds and no torch.compile.
        limit: seconds of timing, about.
        compiled: whether to time what torch.compile makes; it can take a minute a case.

    Raises:
        Incorrect: ours breaks the error rule.
    """
    record = case.record()
    torch._dynamo.reset()  # each case compiles its own shape; none counts against another's recompile limit
    generator = torch.Generator(case.device).manual_seed(0)
    with _range(case, "check"):
        record["error"], wrong = (case.verify(), {}) if case.verify else _errors(case, generator)
    unavailable = dict(wrong)
    first = case.inputs(generator)
    sets = [first, *(case.inputs(generator) for _ in range(_num_sets(first, case.device, quick) - 1))]

    calls, prepared = {}, {}
    for name, rival in _all(case, compiled and not quick).items():
        if name in unavailable:
            continue
        try:
            own = [_leaves_with_gradients(case, rival.prepare(*inputs)) for inputs in sets]
            call = _backward(rival.function, case.autograd_thread) if case.backward else rival.function
            with _range(case, name):
                for inputs in (own[0], own[-1]):
                    call(*inputs)
            timing.synchronize(case.device)
            calls[name], prepared[name] = call, own
        except Exception as error:  # a rival that cannot run is a fact to record, ours a failure
            if name == "ours":
                raise
            unavailable[name] = _one_line(error)

    with _range(case, "count"):
        counted = [name for name in calls if name not in case.variants]
        peaks = {name: memory.peak_bytes(lambda n=name: calls[n](*prepared[n][0]), case.device) for name in counted}
        works = {
            name: memory.work(lambda n=name: calls[n](*prepared[n][0]), case.device)
            for name in counted
            if name != "compiled" or case.device.type == "cuda"
        }
    record["launches"] = {name: count for name, (count, _) in works.items()}
    record["gpu_ms"] = {name: round(busy, 6) for name, (_, busy) in works.items() if busy is not None}
    record["peak_memory_mb"] = {name: round(size / 1e6, 3) for name, (size, _) in peaks.items()}
    record["peak_memory_read"] = peaks["ours"][1]

    runs = {name: timing.rotating(call, prepared[name]) for name, call in calls.items()}
    per_run = dict.fromkeys(runs, 1)
    if case.device.type == "cuda" and case.graph:
        for name, call in calls.items():
            try:
                runs[f"{name} graph"], per_run[f"{name} graph"] = timing.captured(call, prepared[name])
            except Exception as error:
                unavailable[f"{name} graph"] = _one_line(error)
                torch.cuda.synchronize()
    with _range(case, "time"):
        limit = limit if limit is not None else (1.0 if quick else 20.0)
        spreads = timing.interleaved(runs, case.device, QUICK_ROUNDS if quick else ROUNDS, limit)
    record["times_ms"] = {
        name: {k: round(v / per_run[name], 6) if k != "rounds" else v for k, v in spread.as_json().items()}
        for name, spread in spreads.items()
    }
    record["unavailable"] = unavailable
    record["variants"] = list(case.variants)
    record["quick"], record["with_compile"] = quick, compiled and not quick
    record |= load_mark()
    _derive(record, case, ceilings)
    return record


def _all(case: Case, compiled: bool) -> dict[str, Rival]:
    """Every implementation by name, ours first."""
    functions = {"ours": case.ours, "eager": case.eager}
    if case.compile:
        functions["compiled"] = torch.compile(case.eager, dynamic=False)
        if case.device.type == "cuda":  # graphs of it are captured here, as of all others
            functions[AUTOTUNED] = torch.compile(case.eager, dynamic=False, mode=AUTOTUNE)
    functions |= case.rivals | case.variants
    rivals = {name: f if isinstance(f, Rival) else Rival(f) for name, f in functions.items()}
    return {name: rival for name, rival in rivals.items() if compiled or "compiled" not in name}


def _num_sets(inputs: tuple, device: torch.device, quick: bool) -> int:
    """How many sets of inputs rotate: enough to push each other out of the last cache, within MAX_SETS."""
    size = sum(leaf.nbytes for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor))
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 64 << 20
    most = 2 if quick or size > 4 << 30 else MAX_SETS
    return max(2, min(most, -(-2 * cache // max(size, 1))))


def _leaves_with_gradients(case: Case, inputs: tuple) -> tuple:
    if not case.backward:
        return inputs
    leaves, spec = pytree.tree_flatten(inputs)
    wanted = [
        leaf.detach().requires_grad_()
        if isinstance(leaf, torch.Tensor) and leaf.dtype in FLOATS and i not in case.constants
        else leaf
        for i, leaf in enumerate(leaves)
    ]
    return pytree.tree_unflatten(wanted, spec)


def _backward(function: Callable, thread: bool) -> Callable:
    """Forward, then the gradients of every input that wants one."""

    def call(*inputs):
        outputs = [o for o in _tensors(function(*inputs)) if o.requires_grad]
        wanted = [leaf for leaf in _tensors(inputs) if leaf.requires_grad]
        seeds = [torch.full_like(o, 1.0 / max(1, o.shape[0] if o.dim() else 1)) for o in outputs]
        with torch.autograd.set_multithreading_enabled(thread):
            return torch.autograd.grad(outputs, wanted, seeds, allow_unused=True)

    return call


def _tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _errors(case: Case, generator: torch.Generator) -> tuple[dict[str, float], dict[str, str]]:
    """Relative errors against float64 of every implementation, and which rivals are wrong.

    The error of an implementation is the largest over outputs and gradients of |x - truth| / |truth| (Frobenius).
    """
    inputs = (case.check or case.inputs)(generator)
    upcast = pytree.tree_map(lambda x: x.double() if isinstance(x, torch.Tensor) and x.dtype in FLOATS else x, inputs)
    truth = _results(case, Rival(case.truth or case.eager), upcast)
    eager = _results(case, Rival(case.eager), inputs)
    errors: dict[str, list[tuple[float, float]]] = {}  # and what is allowed
    wrong: dict[str, str] = {}
    for name, rival in _all(case, compiled=False).items():
        try:
            found = eager if name == "eager" else _results(case, rival, inputs)
            errors[name] = [error_rule(*each) for each in zip(found, truth, eager, strict=True)]
        except Exception as error:
            if name == "ours":
                raise
            wrong[name] = _one_line(error)
    for name, found in errors.items():
        for i, (error, allowed) in enumerate(found):
            allowed = allowed if case.bound is None else case.bound
            if name != "eager" and not error <= allowed:  # NaN is not <= anything
                what = f"result {i} of {name} is off by {error:.3g}, {allowed:.3g} allowed"
                if name == "ours":
                    raise Incorrect(f"{case}: {what}")
                wrong[name] = what
    return {name: max((error for error, _ in found), default=0.0) for name, found in errors.items()}, wrong


def _results(case: Case, rival: Rival, inputs: tuple) -> list[torch.Tensor | None]:
    """Outputs, then gradients in the order of the case's own inputs, whatever layout the rival prepares."""
    own = _leaves_with_gradients(case, inputs)
    outputs = _tensors(rival.function(*rival.prepare(*own)))
    if not case.backward:
        return [o.detach() for o in outputs]
    wanted = [leaf for leaf in _tensors(own) if leaf.requires_grad]
    # eighths between -1 and 1 are exact in every dtype, so that all implementations get the same output gradient
    seeds = [((torch.arange(o.numel(), device=o.device) % 17 - 8) / 8).reshape(o.shape).to(o.dtype) for o in outputs]
    return [o.detach() for o in outputs] + list(torch.autograd.grad(outputs, wanted, seeds, allow_unused=True))


def _derive(record: dict, case: Case, ceilings: dict) -> None:
    """The columns of the tables: ratios, rates and shares."""
    median = {name: spread["median"] for name, spread in record["times_ms"].items()}
    ours = min(time for name, time in median.items() if name.startswith("ours"))
    for name, column in (("eager", "eager_ms"), ("compiled", "compiled_ms"), ("eager graph", "graph_ms")):
        record[column] = median.get(name)
    record["ours_ms"] = ours
    record["ours_plain_ms"] = median["ours"]
    if "eager" in median:
        record["ratio_eager"] = round(median["eager"] / median["ours"], 3)
    found = like_with_like(record)
    if found:
        record["best_rival"], record["ratio_best"] = found.rival, round(found.ratio, 3)
    if "ours" in record["gpu_ms"]:  # the rest of a single call, in which the GPU waits for the host
        record["host_share"] = round(max(0.0, 1 - record["gpu_ms"]["ours"] / median["ours"]), 4)
    if case.samples:
        record["samples_s"] = round(case.samples / (ours / 1e3), 2)
    record["gb_s"] = round(case.bytes / (ours / 1e3) / machine.GIGA, 3)
    record["tflop_s"] = round(case.flops / (ours / 1e3) / machine.TERA, 5)
    if ceilings:
        record["copy_share"] = round(record["gb_s"] / ceilings["copy_gb_s"], 4)
        matrix = ceilings["matrix_tflop_s"].get(case.matrix or record["dtype"])
        if matrix:
            record["matrix_share"] = round(record["tflop_s"] / matrix, 4)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:240]


def _range(case: Case, what: str):
    return torch.cuda.nvtx.range(f"{case}/{what}") if case.device.type == "cuda" else nullcontext()


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_ceilings: dict[tuple, dict] = {}


def ceilings_of(device: torch.device, quick: bool = False) -> dict:
    """The machine's ceilings, measured once a process."""
    key = (device.type, quick)
    if key not in _ceilings:
        _ceilings[key] = machine.measure(device, quick)
    return _ceilings[key]


def rotating_call(case: Case) -> Callable[[], object]:
    """Ours alone, on inputs that rotate: what pytest-benchmark or a profiler runs."""
    generator = torch.Generator(case.device).manual_seed(1)
    sets = [_leaves_with_gradients(case, case.inputs(generator)) for _ in range(2)]
    return timing.rotating(_backward(case.ours, case.autograd_thread) if case.backward else case.ours, sets)
