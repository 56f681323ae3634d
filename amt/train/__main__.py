"""``python -m amt.train [group=choice] [key=value ...]``: trains a model; the same command resumes a run that was stopped.

    python -m amt.train                                       tiny, on a synthetic set that is rendered first
    python -m amt.train data=dexycb data.root=FOLDER data.mano=FOLDER model=base
    python -m amt.train experiment=demo train.output=FOLDER
    python -m amt.train --multirun train.seed=0,1,2           run K writes into train.output/K, and into train.checkpoint/K where
                                                              that is given

    python -m amt.train experiment=dexycb data.root=FOLDER --dry-run   one real step of everything; leaves nothing behind

``--config-name FILE``, ``--cfg job`` and ``--hydra-help`` are Hydra's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from amt.config import finish, help_text, one_line_errors, prepare, split_words
from amt.errors import UserError
from amt.startup import run_program, tell
from amt.train.config import PROGRAM, Config, check_ranks, leads
from amt.words import check_options


def main(arguments: list[str] | None = None) -> int:
    """Trains; 0, or 2 after one line that says what was wrong with the command, the data or the run."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program(
        "amt.train", lambda: _main(arguments), "interrupted; the same command continues from the newest state"
    )


def _main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{help_text(PROGRAM)}")
        return 0
    dry = "--dry-run" in arguments
    arguments = [word for word in arguments if word != "--dry-run"]
    statuses = []
    try:
        with one_line_errors(PROGRAM):
            _compose(arguments, lambda composed: statuses.append(_train(composed, dry)))
    except UserError as error:
        return tell("amt.train", error) if leads() else 2
    except SystemExit as end:
        return int(end.code or 0)
    return max(statuses, default=0)


def _compose(arguments: list[str], job: Callable) -> None:
    """Calls ``job`` with what Hydra composes; several times in a multirun."""
    options, words = split_words(arguments)  # in this order: Hydra does not find options among words
    check_options(options, "amt.train")
    sys.argv[1:] = prepare(PROGRAM, [*options, *words], multirun=bool({"-m", "--multirun"} & set(options)))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are raised, not printed and turned into an exit
    import hydra

    hydra.main(version_base=None, config_path="pkg://amt.configs", config_name="train")(job)()


def _train(composed, dry: bool) -> int:
    """One run, or a rehearsal of it; its errors are told here, because Hydra would add lines of its own."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        with one_line_errors(PROGRAM):
            config = Config(**finish(PROGRAM, composed))
            check_ranks(config, dry)
    except UserError as error:
        return tell("amt.train", error) if leads() else 2
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        config.train.output = HydraConfig.get().runtime.output_dir
        if config.train.checkpoint is not None:  # else every run would write over the one before
            config.train.checkpoint = str(Path(config.train.checkpoint) / str(HydraConfig.get().job.num))

    # PyTorch loads only now that the words are known to be good
    from amt.train.contents import contents
    from amt.train.ranks import Echo
    from amt.train.signals import Stopped
    from amt.train.trainer import run

    try:
        if dry:
            from amt.train.dry_run import dry_run

            print(f"dry run: everything was done once, and nothing of it is left\n{dry_run(config)}")
            return 0
        run(config)
    except Echo:
        return 2
    except (UserError, OSError) as error:
        return tell("amt.train", error)
    except Stopped as stopped:  # ends a multirun, too
        if leads():
            tell("amt.train", stopped)
        raise
    if leads():
        print(contents(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
