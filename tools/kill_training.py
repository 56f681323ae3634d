"""`python -m tools.kill_training OUT [key=value ...]` kills a training run at random moments and looks what is left.

The run saves all the time and is killed by SIGKILL, most of the times while it trains and saves, else while it starts. After each
kill every state must be readable. At the end the run goes on to its last step, and everything in its newest state must have the
same bits as in OUT/whole, a run of the same configuration that nobody disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amt.data.loader import Loader
    from amt.train.config import Config

STEPS_A_KILL = 4  # of the run: it must not be finished before the last kill
LONGEST_WAIT = 300.0  # s, for a state to appear


@dataclass(frozen=True)
class Outcome:
    """What the kills did. A sound trainer has nothing unreadable, nothing different and no line lost."""

    kills: int
    saves_hit: int  # kills that left a state half written
    unreadable: list[str]  # states
    different: list[str]  # entries of the final state that have other bits than the undisturbed run's
    log_is_whole: bool  # one line a step

    def is_sound(self) -> bool:
        return not self.unreadable and not self.different and self.log_is_whole


def kill_often(
    config: Config, loader: Loader, out: Path, kills: int, seed: int, say: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Trains ``config`` twice: into ``out/whole`` undisturbed, and into ``out/killed`` with ``kills`` SIGKILLs.

    Each process is a fork of this one, which must not have used threads of PyTorch. The same number of threads computes both.
    """
    import torch

    import amt.train.trainer  # noqa: F401  (before the first fork: a child starts in a second)
    from amt.train.records import read_log
    from amt.train.states import read_state, states

    cpu, rng = torch.device("cpu"), random.Random(seed)
    whole, killed = (
        replace(config, train=replace(config.train, output=str(out / name), checkpoint=None))
        for name in ("whole", "killed")
    )
    folder = out / "killed" / "states"
    start = time.perf_counter()
    _finish(whole, loader)
    step_time = (time.perf_counter() - start) / config.train.steps
    unreadable, saves_hit = set(), 0
    for kill in range(kills):
        process, before, start = _begin(killed, loader), _names(folder), time.perf_counter()
        if kill % 4 != 3:
            while _names(folder) <= before and time.perf_counter() < start + LONGEST_WAIT:
                if os.waitpid(process, os.WNOHANG)[0]:
                    raise RuntimeError(
                        f"the run ended by itself before kill {kill + 1} of {kills}; give it more train.steps"
                    )
                time.sleep(step_time / 20)
        time.sleep(rng.uniform(0, 3 * step_time))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        saves_hit += any(name.startswith(".") for name in _names(folder))
        for path in states(folder):
            try:
                read_state(path, cpu)
            except Exception as error:
                unreadable.add(f"{path.name}: {error}")
        say(f"kill {kill + 1} of {kills}: newest is {([p.name for p in states(folder)] or ['none'])[-1]}")
    _finish(killed, loader)
    a, b = (_flat(read_state(states(out / name / "states")[-1], cpu)) for name in ("whole", "killed"))
    different = [name for name in a | b if name != ".seconds" and not _same(a.get(name), b.get(name))]
    rows = [int(row["step"]) for row in read_log(out / "killed" / "log.jsonl")]
    return Outcome(kills, saves_hit, sorted(unreadable), different, rows == list(range(config.train.steps)))


def _begin(config: Config, loader: Loader) -> int:
    """A child process that trains; its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        from amt.train.trainer import run

        run(config, loader, progress=False)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _finish(config: Config, loader: Loader) -> None:
    """Trains to the end in a child process."""
    status = os.waitstatus_to_exitcode(os.waitpid(_begin(config, loader), 0)[1])
    if status:
        raise RuntimeError(f"{config.train.output}: the run ended with status {status}")


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, (dict, list, tuple)):
        return {name: value}
    found = {}
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        found |= _flat(part, f"{name}.{key}")
    return found


def _same(a: Any, b: Any) -> bool:
    import torch

    return torch.equal(a, b) if torch.is_tensor(a) and torch.is_tensor(b) else a == b


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.kill_training", description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, help="folder of the two runs; must not exist")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("override", nargs="*", help="key=value, as python -m amt.train takes them")
    options = parser.parse_intermixed_args(arguments)
    if options.out.exists():
        parser.error(f"{options.out} exists: name a new folder")

    from amt.config import compose
    from amt.train.config import PROGRAM, Config

    settled = [
        "train.save_every=1",
        "train.threads=1",
        "train.device=cpu",
        "train.logger=none",
        f"train.steps={STEPS_A_KILL * options.kills}",
    ]
    config = Config(**compose(PROGRAM, [*settled, "train.batch_size=4", *options.override]))

    import torch

    from amt.data.loader import make_loader

    torch.set_num_threads(1)  # before the first fork
    loader = make_loader(config.data, "train", config.train.batch_size, seed=config.train.seed)
    outcome = kill_often(config, loader, options.out, options.kills, options.seed, lambda line: print(line, flush=True))
    log = "whole" if outcome.log_is_whole else "not whole"
    print(
        f"{outcome.kills} kills, {outcome.saves_hit} of them in the middle of a save: {len(outcome.unreadable)} unreadable "
        f"states, {len(outcome.different)} differences at the end, log {log}"
    )
    for line in [*outcome.unreadable, *outcome.different]:
        print(line, file=sys.stderr)
    return 0 if outcome.is_sound() else 1


if __name__ == "__main__":
    sys.exit(main())
