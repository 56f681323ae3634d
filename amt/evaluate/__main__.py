"""``python -m amt.evaluate``: scores a checkpoint beside the mean pose of its training set, or anybody's result file.

    python -m amt.evaluate CHECKPOINT                                      on the test set of the data that it was trained on
    python -m amt.evaluate CHECKPOINT data.root=FOLDER evaluate.subset=val
    python -m amt.evaluate CHECKPOINT data.root=FOLDER data.split=s0 evaluate.protocol=V evaluate.box=truth
    python -m amt.evaluate CHECKPOINT model.hand=MANO_RIGHT.pkl            where MANO's files lie elsewhere than in training
    python -m amt.evaluate evaluate.results=FILE data.root=FOLDER          a result file, as its official evaluator scores it
    python -m amt.evaluate CHECKPOINT --rerun FILE.rrd                     records every frame, too; evaluate.rerun=FILE.rrd
    python -m amt.evaluate.compare A B                                     two evaluations, with intervals

Writes metrics.json, samples.csv (a row a frame) and report.html. Data settings that are not given are those of the training.
"""

from __future__ import annotations

import sys

from amt.config import compose, help_text, split_words
from amt.errors import UsageError
from amt.evaluate.config import PROGRAM
from amt.model.checkpoint import read_record
from amt.model.shipped import checkpoint_folder
from amt.startup import run_program
from amt.words import key_of

RESULTS, RERUN = "evaluate.results", "--rerun"
OF_RESULTS = (RESULTS, "evaluate.subset", "evaluate.protocol", "evaluate.output")  # what scoring a file looks at


def main(arguments: list[str] | None = None) -> int:
    """Evaluates; 0, or 2 after one line that names what was wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("amt.evaluate", lambda: _main(arguments), "interrupted; no figures were written")


def _main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{help_text(PROGRAM)}")
        return 0
    arguments = _with_key(arguments)
    if _scores_a_file(arguments):
        settings = compose(PROGRAM, arguments, {})
        from amt.evaluate.results import score_file

        score_file(settings)
        return 0
    if not arguments:
        raise UsageError("expected the folder of a checkpoint; see python -m amt.evaluate --help")
    folder = checkpoint_folder(arguments[0])
    settings = compose(PROGRAM, arguments[1:], read_record(folder))
    from amt.evaluate.run import run

    run(folder, settings)
    return 0


def _with_key(arguments: list[str]) -> list[str]:
    """The words with evaluate.rerun=FILE in place of ``--rerun FILE``, as amt.infer calls it. Raises UsageError."""
    words, rest = [], iter(arguments)
    for word in rest:
        option, sign, value = word.partition("=")
        if option == RERUN:
            value = value if sign else next(rest, "")
            if not value:
                raise UsageError(f"{RERUN}: expected the name of an .rrd file")
            word = f"evaluate.rerun={value}"
        words.append(word)
    return words


def _scores_a_file(arguments: list[str]) -> bool:
    """Whether ``evaluate.results`` names a file. Raises UsageError for what then has no effect."""
    others, words = split_words(arguments)
    values = [word.partition("=")[2] for word in words if key_of(word) == RESULTS]
    if not values or values[-1].lower() == "null":
        return False
    if others:
        raise UsageError(f"{others[0]}: {RESULTS} scores a file without a checkpoint; leave one of the two out")
    for word in words:
        key = key_of(word)
        if key.startswith("evaluate.") and key not in OF_RESULTS:
            raise UsageError(f"{word}: has no effect where {RESULTS} is given; {', '.join(OF_RESULTS[1:])} have")
    return True


if __name__ == "__main__":
    sys.exit(main())
