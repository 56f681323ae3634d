"""`python -m benchmarks.choices RESULTS.json` names the fastest implementation of ours for every shape that was measured.

It writes RESULTS.choices.json beside the results: for each op, shape, dtype and pass that has variants the winner, the
runner-up and by how much. `--install` also writes attention's back ends into amt/kernels/attention/choices.json, which
dispatch reads; the entries of other cards there stay.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.results import ROOT, load

ATTENTION = ROOT / "amt" / "kernels" / "attention" / "choices.json"
BACK_ENDS = ("flash", "cudnn", "efficient")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--install", action="store_true", help="also write amt/kernels/attention/choices.json")
    options = parser.parse_args(arguments)
    try:
        data = load(options.results)
    except (OSError, ValueError) as error:
        print(f"choices: {error}", file=sys.stderr)
        return 1
    found = winners(data["records"])
    path = options.results.with_suffix(".choices.json")
    stamp = {key: data["environment"][key] for key in ("machine", "commit", "date")}
    path.write_text(json.dumps({**stamp, "choices": found}, indent=1) + "\n")
    print(f"{path}: {len(found)} shapes")
    for entry in found:
        shape = " ".join(f"{k} {v}" for k, v in entry["shape"].items())
        print(f"  {entry['op']} {shape} {entry['dtype']} {entry['pass']}: {entry['winner']} {entry['ahead']:.2f}x")
    if options.install:
        table = json.loads(ATTENTION.read_text()) if ATTENTION.exists() else {}
        table[stamp["machine"]] = attention_table(found)
        ATTENTION.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
        print(f"{ATTENTION.relative_to(ROOT)}: {len(table[stamp['machine']])} entries for {stamp['machine']}")
    return 0


def winners(records: list[dict]) -> list[dict]:
    """The fastest candidate of every measured record that has at least two; a graph's time counts where there is one."""
    found = []
    for record in records:
        if "failed" in record or record.get("quick"):
            continue
        candidates = ["ours", *record["variants"]]
        if record["op"] == "attention":  # what is to be chosen is the back end
            candidates = [f"sdpa {name}" for name in BACK_ENDS]
        times = {name: time for name in candidates if (time := _time(record, name)) is not None}
        if len(times) < 2:
            continue
        first, second = sorted(times, key=times.get)[:2]
        found.append(
            {
                **{key: record[key] for key in ("op", "pass", "shape", "dtype", "device")},
                "winner": first,
                "runner_up": second,
                "ahead": round(times[second] / times[first], 4),
                "times_ms": times,
            }
        )
    return found


def _time(record: dict, name: str) -> float | None:
    spread = record["times_ms"].get(f"{name} graph") or record["times_ms"].get(name)
    return spread and spread["median"]


def attention_table(found: list[dict]) -> list[dict]:
    """Entries as amt.kernels.attention.sdpa reads them."""
    return [
        {**entry["shape"], "dtype": entry["dtype"], "pass": entry["pass"],
         "back_end": entry["winner"].removeprefix("sdpa ")}
        for entry in found
        if entry["op"] == "attention"
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
