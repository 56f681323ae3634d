"""Where everything is that a run has left."""

from __future__ import annotations

from amt.train.config import Config
from amt.train.loggers import TENSORBOARD
from amt.train.profiling import FOLDER as PROFILE
from amt.train.records import STEPS, VALIDATIONS
from amt.train.sight import PICTURES
from amt.train.states import best_state, read_score, states


def contents(config: Config) -> str:
    """A line for each thing that is there: what it is, its path, and what to do with it."""
    output, checkpoint = config.output_folder(), config.checkpoint_folder()
    found = [
        ("trained model", checkpoint, f"score it with python -m amt.evaluate {checkpoint}"),
        ("loss curves", output / "loss.png", ""),
        ("pictures", output / PICTURES, "predictions beside the truth"),
        ("log", output / STEPS, "one JSON object a step"),
        ("validations", output / VALIDATIONS, ""),
        ("TensorBoard", output / TENSORBOARD, f"tensorboard --logdir {output / TENSORBOARD}"),
        ("profile", output / PROFILE, "open it in ui.perfetto.dev"),
        ("states", output / "states", _states(config)),
    ]
    width = max(len(name) for name, _, _ in found)
    lines = [f"{name:{width}}  {path}{note and '   ' + note}" for name, path, note in found if path.exists()]
    return "\n".join(lines)


def _states(config: Config) -> str:
    folder = config.output_folder() / "states"
    newest, best = states(folder)[-1:], best_state(folder)
    words = [f"newest {path.name}" for path in newest]
    if best is not None:
        score = read_score(best)
        words.append(f"best {best.name} ({score.name} {score.value:.4g})")
    return ", ".join(words)
