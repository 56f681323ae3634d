"""``python -m amt.train [experiment=demo] [group=choice] [key=value ...]``; ``--help`` lists groups and keys."""

from __future__ import annotations

import logging
import os
import sys


def main() -> int:
    """Trains; 0, or 2 after one line that says what was wrong with the command, the data or the run."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to the handler below instead of Hydra's own report
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from amt.kernels import BackendUnavailable
    from amt.train.cli import one_line, register_schema, to_config
    from amt.train.states import StateError
    from amt.train.trainer import TrainingError, run

    mistakes = (
        HydraException,
        OmegaConfBaseException,
        ValueError,
        OSError,
        StateError,
        TrainingError,
        BackendUnavailable,
    )
    failed = []
    register_schema()

    @hydra.main(version_base=None, config_path="pkg://amt.configs", config_name="train")
    def job(composed) -> None:
        try:
            folder = run(to_config(composed))
        except mistakes as error:  # told here, because Hydra would add lines of its own
            failed.append(error)
            _tell(one_line(error))
        else:
            print(f"{folder}: the trained model; score it with python -m amt.evaluate {folder}")

    try:
        job()
    except mistakes as error:
        failed.append(error)
        _tell(one_line(error))
    except KeyboardInterrupt:
        _tell("interrupted; the same command continues from the newest state")
        return 130
    return 2 if failed else 0


def _tell(line: str) -> None:
    logging.getLogger(__name__).debug("full error", exc_info=True)
    print(f"amt.train: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
