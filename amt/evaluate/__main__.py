"""``python -m amt.evaluate``: scores a checkpoint beside the mean pose of its training set, or anybody's result file.

    python -m amt.evaluate CHECKPOINT                                      on the test set of the data that it was trained on
    python -m amt.evaluate CHECKPOINT data.root=FOLDER evaluate.subset=val
    python -m amt.evaluate CHECKPOINT data.root=FOLDER data.split=s0 evaluate.protocol=V evaluate.box=truth
    python -m amt.evaluate CHECKPOINT model.hand=MANO_RIGHT.pkl            where MANO's files lie elsewhere than in training
    python -m amt.evaluate evaluate.results=FILE data.root=FOLDER          a result file, as its official evaluator scores it
    python -m amt.evaluate.compare A B                                     two evaluations, with intervals

Writes metrics.json, samples.csv (a row a frame) and report.html. Data settings that are not given are those of the training.
"""

from __future__ import annotations

import sys
from pathlib import Path

from amt.config import compose, help_text
from amt.errors import UsageError
from amt.evaluate.config import PROGRAM
from amt.model.checkpoint import read_record
from amt.startup import run_program


def main(arguments: list[str] | None = None) -> int:
    """Evaluates; 0, or 2 after one line that names what was wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("amt.evaluate", lambda: _main(arguments), "interrupted; no figures were written")


def _main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{help_text(PROGRAM)}")
        return 0
    if any(word.startswith("evaluate.results=") for word in arguments):
        from amt.evaluate.results import score_file

        score_file(compose(PROGRAM, arguments, {}))
        return 0
    if not arguments:
        raise UsageError("expected the folder of a checkpoint; see python -m amt.evaluate --help")
    folder = Path(arguments[0])
    settings = compose(PROGRAM, arguments[1:], read_record(folder))
    from amt.evaluate.run import run

    run(folder, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
