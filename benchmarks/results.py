"""The JSON file of one machine: environment, ceilings and records, written again after every record.

A run that is cut off keeps what it had. A record that is measured again replaces the one with the same op, pass, shape,
dtype and device; every record carries the commit and the date of its own run.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / "results"
SCHEMA = 1
FLAWS = ("failed", "loaded", "quick")  # of a record that is no measurement to show
DATE = "%Y-%m-%d %H:%M UTC"
MOST_LOAD = 1.5  # processes a core that run or wait to run: above it, a time says more about the neighbours
# flags of /proc/cpuinfo, the widest first
INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "avx512f": "AVX-512", "avx2": "AVX2"}


def machine_name(device: torch.device) -> str:
    """The card's name, or the processor's, its widest instructions (a hypervisor may hide the model) and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []

    def first(key: str) -> str:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")

    flags = first("flags").split()
    widest = next((f" with {name}" for flag, name in INSTRUCTIONS.items() if flag in flags), "")
    model = first("model name") or platform.processor() or platform.machine()
    return f"{model}{widest}, {torch.get_num_threads()} threads"


def slug(name: str) -> str:
    """A file name: "NVIDIA H200" -> "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")


def default_path(device: torch.device) -> Path:
    return FOLDER / f"{slug(machine_name(device))}.json"


def commit() -> str:
    """The commit checked out, "-dirty" where the measured code differs from it; AMT_COMMIT where there is no repository."""
    try:
        revision = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "-uno", "--", "amt", "csrc", "benchmarks/*.py", "CMakeLists.txt")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("AMT_COMMIT", "unknown")
    return revision + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime(DATE)


def as_time(date: str) -> datetime.datetime:
    """A record's date."""
    return datetime.datetime.strptime(date, DATE)


def load_mark() -> dict:
    """The load average of the last minute and the cores, for a record; ``"loaded": True`` where others took part in its times.

    A record with that mark is kept and not shown (:func:`benchmarks.tables.measured`).
    """
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    mark = {"load_average": round(load, 2), "cores": cores}
    return mark | {"loaded": True} if load > MOST_LOAD * cores else mark


def environment(device: torch.device) -> dict:
    """Machine, versions, commit and date of this run."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("triton", "transformers", "flash_attn", "xformers", "transformer_engine", "numpy"):
        version = _version(package)
        if version is not None:
            versions[package] = version
    block = {
        "machine": machine_name(device),
        "device": device.type,
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "versions": versions,
        "commit": commit(),
        "date": now(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        block["gpu"] = {
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    else:
        block["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return block


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def key(record: dict) -> tuple:
    """What makes two records the same measurement."""
    return (
        record["op"],
        record["pass"],
        tuple(sorted((name, str(size)) for name, size in record["shape"].items())),
        record["dtype"],
        record["device"],
    )


class Results:
    """One machine's file. Every change is on disk when the call returns, and the file is whole at any moment."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = Path(path)
        self.data = load(self.path) if self.path.exists() else {"schema": SCHEMA, "ceilings": {}, "records": []}
        self.data["environment"] = environment(device)
        self._stamp = {"commit": self.data["environment"]["commit"], "date": self.data["environment"]["date"]}

    @property
    def ceilings(self) -> dict:
        return self.data["ceilings"]

    def recent_ceilings(self, quick: bool) -> dict:
        """The ceilings that this commit measured within the last hour, as quickly as that; {} where it did not."""
        found = self.ceilings
        if found.get("commit") != self._stamp["commit"] or found.get("quick", False) != quick:
            return {}
        age = as_time(self._stamp["date"]) - as_time(found["date"])
        return found if age <= datetime.timedelta(hours=1) else {}

    def set_ceilings(self, ceilings: dict) -> None:
        self.data["ceilings"] = {**ceilings, **self._stamp}
        self.write()

    def has(self, record: dict, compiled: bool = False) -> bool:
        """Whether this commit has measured the same on a quiet machine; no changed code counts as measured.

        Args:
            compiled: beside what torch.compile makes, too.
        """
        if self._stamp["commit"].endswith("-dirty") or self._stamp["commit"] == "unknown":
            return False
        return any(
            key(old) == key(record)
            and old["commit"] == self._stamp["commit"]
            and not any(old.get(flaw) for flaw in FLAWS)
            and (not compiled or old.get("with_compile", True))
            for old in self.data["records"]
        )

    def add(self, record: dict) -> None:
        record = {**record, **self._stamp}
        if (record.get("loaded") or record.get("quick")) and self.has(record):
            return  # a better figure of this commit stays
        kept = [old for old in self.data["records"] if key(old) != key(record)]
        self.data["records"] = [*kept, record]
        self.write()

    def amend(self, record: dict, **more: object) -> None:
        """Adds to the record of the same measurement; its commit and date stay."""
        self.data["records"] = [{**old, **more} if key(old) == key(record) else old for old in self.data["records"]]
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".json.part")
        partial.write_text(json.dumps(self.data, indent=1) + "\n")
        os.replace(partial, self.path)


def load(path: Path) -> dict:
    """Reads a results file.

    Raises:
        ValueError: not JSON, or of another schema; the message names the file.
    """
    try:
        data = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a results file: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a results file of schema {SCHEMA}: remove it and measure again")
    return data
