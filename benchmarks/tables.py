"""Results as Markdown: the demo, the goals beside what was measured, one table an op, and the machines."""

from __future__ import annotations

from benchmarks import demo, exports, registers
from benchmarks.compare import like_with_like
from benchmarks.goals import BOTH, GOALS, PYRAMID

UNMEASURED = "not yet measured"
KINDS = {"cuda": "GPU", "cpu": "CPU"}
OPS = {
    "refine": ("refine",),
    "frames": ("hand_frames", "frame_pointnet"),
    "pose_scores": ("pose_scores",),
    "attention": ("attention", "attention fp8"),
    "model": ("encoder", "encoder fp8", "fp8 linear", "model"),
    "train": ("training step",),
}
NAMES = ("demo", "exports", "registers", "headline", "goals", "goals-gpu", "goals-cpu", "machines", *OPS)
# What the README shows: a record's device, op, pass, dtype and sizes. Each is looked up in the newest file that holds it.
HEADLINE = (
    ("cuda", "refine", "forward", "bfloat16", PYRAMID | {"B": 512}),
    ("cuda", "refine", BOTH, "bfloat16", PYRAMID | {"B": 512}),
    ("cuda", "frame_pointnet", "forward", "bfloat16", {"B": 512, "N": 778}),
    ("cuda", "frame_pointnet", BOTH, "bfloat16", {"B": 512, "N": 778}),
    ("cpu", "refine", "forward", "float32", PYRAMID | {"B": 256}),
    ("cpu", "hand_frames", "forward", "float32", {"B": 512}),
)


def render(name: str, files: list[dict]) -> str:
    """The block of that name from the results files. Raises KeyError for a name that is none of :data:`NAMES`."""
    if name == "demo":
        return demo.table()
    if name == "exports":
        return exports.table()
    if name == "registers":
        return registers.table()
    if name == "headline":
        return _headline(files)
    if name == "machines":
        return _machines(files)
    if name.startswith("goals"):
        kinds = {"goals": ("cuda", "cpu"), "goals-gpu": ("cuda",), "goals-cpu": ("cpu",)}[name]
        return _goals(files, kinds)
    return _measurements(files, OPS[name])


def measured(files: list[dict]) -> list[tuple[dict, dict]]:
    """Every record that has a time or failed, with its file; quick runs are no measurement."""
    return [(file, record) for file in files for record in file["records"] if not record.get("quick")]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _headline(files: list[dict]) -> str:
    rows = []
    for device, op, label, dtype, sizes in HEADLINE:
        found = [
            (file, record)
            for file, record in measured(files)
            if "failed" not in record
            and (record["device"], record["op"], record["pass"], record["dtype"]) == (device, op, label, dtype)
            and all(record["shape"].get(name) == size for name, size in sizes.items())
            and like_with_like(record)
        ]
        what = [f"`{op}`, {label}", " ".join(f"{n} {size}" for n, size in sizes.items()) + f", {dtype}"]
        if not found:
            rows.append([*what, KINDS[device], UNMEASURED, "", ""])
            continue
        file, record = max(found, key=lambda pair: pair[1]["date"])
        compared = like_with_like(record)
        machine = file["environment"]["machine"]
        # times on a CPU belong to one machine and one moment: only their ratio is quoted
        ours, rival = f"{number(compared.ours_ms)} ms", f" {number(compared.rival_ms)} ms"
        where = f"{machine}, {compared.calls}"
        if device == "cpu":
            ours, rival, where = "–", "", machine
        name = {"compiled": "torch.compile", "eager": "eager PyTorch"}.get(compared.rival, compared.rival)
        rows.append([*what, where, ours, name + rival, f"{number(compared.ratio)} ×"])
    return _table(["op", "shape", "device", "ours", "best rival", "ratio"], rows)


def _goals(files: list[dict], kinds: tuple[str, ...]) -> str:
    rows = []
    for goal in (g for g in GOALS if g.device in kinds):
        found = []
        for file in files:
            records = [r for f, r in measured([file]) if "failed" not in r]
            value = goal.worst(records)
            if value is not None:
                found.append((file["environment"]["machine"], value))
        where = KINDS[goal.device]
        if not found:
            rows.append([where, goal.text, goal.target(), UNMEASURED, ""])
        for machine, value in found:
            figure = f"{number(value)} {goal.unit}".strip()
            rows.append([machine, goal.text, goal.target(), figure, "met" if goal.met(value) else "missed"])
    return _table(["where", "what", "goal", "measured", ""], rows)


def _measurements(files: list[dict], ops: tuple[str, ...]) -> str:
    columns = ["op", "shape", "dtype", "pass", "eager", "compiled", "graph", "ours (ms)", "× eager", "× best rival"]
    columns += ["GB/s", "TFLOP/s", "peak MB (eager)", "launches (eager)", "error"]
    parts = []
    for kind in ("cuda", "cpu"):
        found = [(f, r) for f, r in measured(files) if r["op"] in ops and r["device"] == kind]
        if not found:
            parts.append(f"{KINDS[kind]}: {UNMEASURED}.")
        for machine in dict.fromkeys(f["environment"]["machine"] for f, _ in found):
            rows = [_row(f, r) for f, r in sorted(found, key=_order) if f["environment"]["machine"] == machine]
            parts.append(f"{machine}:\n\n{_table(columns, rows)}")
    return "\n\n".join(parts)


def _order(pair: tuple[dict, dict]) -> tuple:
    record = pair[1]
    sizes = [
        (0, size, "") if isinstance(size, int) else (1, 0, str(size)) for _, size in sorted(record["shape"].items())
    ]
    return record["op"], record["dtype"], record["pass"], sizes


def _row(file: dict, record: dict) -> list[str]:
    shape = " ".join(f"{name} {size}" for name, size in record["shape"].items())
    start = [record["op"], shape, record["dtype"], record["pass"]]
    if "failed" in record:
        return [*start, *["–"] * 3, "failed: " + record["failed"].splitlines()[0][:80].replace("|", "/"), *["–"] * 7]
    peak, launches = record["peak_memory_mb"], record["launches"]
    return [
        *start,
        *(number(record.get(column)) for column in ("eager_ms", "compiled_ms", "graph_ms", "ours_ms")),
        number(record.get("ratio_eager")),
        number(compared.ratio if (compared := like_with_like(record)) else None),
        _rate(record, "gb_s", "copy_share"),
        _rate(record, "tflop_s", "matrix_share"),
        f"{number(peak.get('ours'))} ({number(peak.get('eager'))})",
        f"{launches.get('ours', '–')} ({launches.get('eager', '–')})",
        f"{record['error']['ours']:.1e}",
    ]


def _rate(record: dict, rate: str, share: str) -> str:
    figure = number(record[rate])
    return figure if record.get(share) is None else f"{figure} ({100 * record[share]:.0f} %)"


def number(value: float | None) -> str:
    """Three significant digits, thousands whole."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return f"{value:.6f}".rstrip("0") if "e" in text and value else text


def _machines(files: list[dict]) -> str:
    columns = ["machine", "copy GB/s", "matrix TFLOP/s", "versions", "commit", "date"]
    rows = []
    for file in files:
        environment, ceilings = file["environment"], file.get("ceilings", {})
        rates = ", ".join(f"{_short(k)} {number(v)}" for k, v in sorted(ceilings.get("matrix_tflop_s", {}).items()))
        versions = environment["versions"]
        named = ", ".join(f"{k} {versions[k]}" for k in ("torch", "triton", "python") if k in versions)
        commits = dict.fromkeys(r["commit"] for _, r in measured([file]))
        rows.append(
            [environment["machine"], number(ceilings.get("copy_gb_s")), rates or "–", named, ", ".join(commits) or "–",
             environment["date"]]
        )  # fmt: skip
    if not any(file["environment"]["device"] == "cuda" for file in files):
        rows.insert(0, ["GPU", *[UNMEASURED] * 2, "", "", ""])
    return _table(columns, rows)


def _short(dtype: str) -> str:
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64", "float8_e4m3fn": "fp8"}.get(
        dtype, dtype
    )
