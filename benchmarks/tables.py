"""Results as Markdown: the demo, the goals beside what was measured, one table an op, and the machines."""

from __future__ import annotations

from benchmarks import demo, exports, registers
from benchmarks.compare import AUTOTUNED, like_with_like
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
WHOLE = ("model", "train")  # the tables that also say how many images a second, and how much of a call the GPU waits
NAMES = (
    "demo", "exports", "registers", "headline", "goals", "goals-gpu", "goals-cpu", "machines", "video", "learning", *OPS,
)  # fmt: skip
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
    if name == "video":
        return _video(files)
    if name == "learning":
        return _learning(files)
    if name.startswith("goals"):
        kinds = {"goals": ("cuda", "cpu"), "goals-gpu": ("cuda",), "goals-cpu": ("cpu",)}[name]
        return _goals(files, kinds)
    return _measurements(files, OPS[name], name in WHOLE)


def measured(files: list[dict]) -> list[tuple[dict, dict]]:
    """Every record that has a time or failed, with its file; quick runs and those on a loaded machine are no measurement."""
    return [(f, r) for f in files for r in f["records"] if not r.get("quick") and not r.get("loaded")]


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
        names = {"compiled": "torch.compile", AUTOTUNED: "torch.compile max-autotune", "eager": "eager PyTorch"}
        name = names.get(compared.rival, compared.rival)
        rows.append([*what, where, ours, name + rival, f"{number(compared.ratio)} ×"])
    return _table(["op", "shape", "device", "ours", "best rival", "ratio"], rows)


def _goals(files: list[dict], kinds: tuple[str, ...]) -> str:
    rows = []
    for goal in (g for g in GOALS if g.device in kinds):
        found = []
        for file in files:
            records = [r for f, r in measured([file]) if "failed" not in r]
            furthest = goal.furthest(records)
            if furthest is not None:
                found.append((file["environment"]["machine"], *furthest))
        where = KINDS[goal.device]
        if not found:
            rows.append([where, goal.text, goal.target(), UNMEASURED, ""])
        for machine, value, record in found:
            figure = f"{number(value)} {goal.unit}".strip()
            limit = record.get("limit")  # of python -m benchmarks.missed
            missed = f"missed: {limit}" if limit else "missed"
            rows.append([machine, goal.text, goal.target(), figure, "met" if goal.met(value) else missed])
    return _table(["where", "what", "goal", "measured", ""], rows)


def _measurements(files: list[dict], ops: tuple[str, ...], whole: bool) -> str:
    columns = ["op", "shape", "dtype", "pass", "eager", "compiled", "graph", "ours (ms)", "× eager", "× best rival"]
    columns += ["GB/s", "TFLOP/s", "peak MB (eager)", "launches (eager)", "error"]
    columns += ["images/s", "host share"] if whole else []
    parts = []
    for kind in ("cuda", "cpu"):
        found = [(f, r) for f, r in measured(files) if r["op"] in ops and r["device"] == kind]
        if not found:
            parts.append(f"{KINDS[kind]}: {UNMEASURED}.")
        for machine in dict.fromkeys(f["environment"]["machine"] for f, _ in found):
            mine = [r for f, r in sorted(found, key=_order) if f["environment"]["machine"] == machine]
            rows = [_row(r) + (_whole(r) if whole else []) for r in mine]
            parts.append(f"{machine}:\n\n{_table(columns, rows)}")
    return "\n\n".join(parts)


def _order(pair: tuple[dict, dict]) -> tuple:
    record = pair[1]
    sizes = [
        (0, size, "") if isinstance(size, int) else (1, 0, str(size)) for _, size in sorted(record["shape"].items())
    ]
    return record["op"], record["dtype"], record["pass"], sizes


def _whole(record: dict) -> list[str]:
    share = record.get("host_share")
    return [number(record.get("samples_s")), "–" if share is None else f"{100 * share:.0f} %"]


def _video(files: list[dict]) -> str:
    """Videos on GPUs: `python -m benchmarks.video` of a CPU prints its figures and keeps none."""
    rows = []
    for file, r in measured(files):
        if r["op"] == "video":
            over = [f"{number(r['over_plain'][name])} ×" for name in ("network", "answer", "end to end")]
            times = [number(r[name]) for name in ("network_ms", "network_of_16_ms", "answer_ms", "first_answer_s")]
            name = f"`{r['shape']['checkpoint']}`"
            machine = file["environment"]["machine"]
            rows.append([machine, name, number(r["samples_s"]), number(r["samples_s_busy"]), *times, *over])
    head = [
        "machine",
        "checkpoint",
        "frames/s with drawing",
        "… a busy process a core",
        "network, ms",
        "… of 16, an image",
    ]
    head += [
        "picture to answer, ms",
        "first answer, s",
        "network over plain PyTorch",
        "… to the answer",
        "… end to end",
    ]
    return _table(head, rows) if rows else f"GPU: {UNMEASURED}."


def _learning(files: list[dict]) -> str:
    """Training runs that `python -m benchmarks.learn` measured: what was reached, and the errors on the way."""
    parts = []
    for file, r in measured(files):
        if r["op"] != "training run":
            continue
        m, s = r["metrics"], r["seconds"]
        reached = (
            ("images seen", f"{r['images']:,}"),
            ("images/s", number(r["samples_s"])),
            ("scenes rendered", f"{r['scenes']:,} by {r['render_cores']} cores"),
            ("seconds to render, train, evaluate", f"{s['render']}, {s['train']}, {s['evaluate']}"),
            ("hand, wrist-aligned MPJPE (mm)", f"{m['wrist_aligned_mpjpe_mm']:.1f}"),
            ("… over the mean pose's", f"{r['of_mean_pose']:.3f}"),
            ("hand, Procrustes-aligned MPJPE (mm)", f"{m['procrustes_mpjpe_mm']:.1f}"),
            ("object, ADD-S (mm)", f"{m['adds_mm']:.1f}"),
            ("object, rotation, median (degrees)", f"{m['rotation_median_deg']:.1f}"),
            ("contact F1", f"{m['contact_f1']:.3f}"),
        )
        model = f"`{r['shape']['size']}` at {r['shape']['px']} px, batches of {r['shape']['B']}"
        what = f"{file['environment']['machine']}, {model}, scored on {r['frames']} frames of test people"
        parts.append(f"{what}:\n\n{_table(['what', 'reached'], [list(row) for row in reached])}")
        curve = _thinned(r["curve"])
        head = ["images seen", "wrist-aligned (mm)", "Procrustes (mm)", "ADD-S (mm)"]
        rows = [[f"{images:,}", *(f"{error:.1f}" for error in errors)] for images, *errors in curve]
        parts.append(f"On validation people, on the way:\n\n{_table(head, rows)}")
    return "\n\n".join(parts) or f"GPU: {UNMEASURED}."


def _thinned(curve: list[list[float]]) -> list[list[float]]:
    """The first point, then the next one with at least half as many images again, and the last."""
    kept: list[list[float]] = []
    for point in curve:
        if not kept or point[0] >= 1.5 * kept[-1][0]:
            kept.append(point)
    return kept if not curve or kept[-1] is curve[-1] else [*kept, curve[-1]]


def _row(record: dict) -> list[str]:
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
