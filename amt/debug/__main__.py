"""``python -m amt.debug CHECKPOINT [key=value ...]``: what is wrong with a checkpoint, on one page.

    python -m amt.debug CHECKPOINT data.root=ROOT                   prints the verdicts and writes debug.html beside CHECKPOINT
    python -m amt.debug CHECKPOINT debug.subset=train debug.output=page.html

Data settings that are not given are those of the training. The exit status is 0 without a fault, 1 with faults, 2 where
nothing could be looked at.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from amt.config import choose_device, compose, help_text, set_threads
from amt.debug.config import PROGRAM
from amt.errors import UsageError
from amt.files import check_writable, write_text
from amt.model.checkpoint import read_record
from amt.model.shipped import checkpoint_folder, is_shipped
from amt.startup import run_program


def main(arguments: list[str] | None = None) -> int:
    """Looks; the status is said above."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("amt.debug", lambda: _main(arguments), "interrupted; no page was written")


def _main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{help_text(PROGRAM)}")
        return 0
    if not arguments:
        raise UsageError("expected the folder of a checkpoint; see python -m amt.debug --help")
    folder = checkpoint_folder(arguments[0])
    return run(folder, compose(PROGRAM, arguments[1:], read_record(folder)))


def run(checkpoint: Path, settings: dict[str, Any]) -> int:
    """Debugs a checkpoint folder with composed settings; 1 where a fault was found."""
    chosen = settings["debug"]
    path = (
        Path(chosen.output)
        if chosen.output
        else (Path() if is_shipped(checkpoint) else checkpoint.resolve().parent) / "debug.html"
    )
    check_writable(path)
    from dataclasses import replace

    from amt.data.loader import make_loader
    from amt.debug.debugger import ModelDebugger
    from amt.debug.diversity import FEWEST
    from amt.debug.page import page
    from amt.kernels import use
    from amt.model.loading import load_checkpoint

    set_threads(chosen.threads)
    device = choose_device(chosen.device, "debug.device")
    model, _ = load_checkpoint(checkpoint, hand=settings["model"].hand)
    limits = [limit for limit in (settings["data"].limit, max(chosen.hands, chosen.batch_size)) if limit is not None]
    data = replace(settings["data"], limit=min(limits), window=1)
    loader = make_loader(data, chosen.subset, chosen.batch_size, augment=False, shuffle=False)
    debugger, batch = ModelDebugger(model.to(device)), next(iter(loader))
    if len(batch.index) < 2:
        raise UsageError(f"{chosen.subset} holds a single frame, and units are compared over several; give more frames")
    with use(settings["kernels"].use):
        nonfinite, report = debugger.find_nonfinite(batch), debugger.analyze_model(batch)
        enough = sum(int(b.targets.hand_valid.sum()) for b in loader if len(b.index) > 1) >= FEWEST
        diversity = debugger.debug_prediction_diversity(loader, chosen.hands) if enough else None
    for found in (nonfinite, report, diversity):
        if found is not None:
            print(found)
    write_text(path, page(f"{checkpoint.resolve().name}: what the debugger found", report, diversity, nonfinite))
    print(path)
    return 1 if nonfinite or report.faults or (diversity and diversity.faults) else 0


if __name__ == "__main__":
    sys.exit(main())
