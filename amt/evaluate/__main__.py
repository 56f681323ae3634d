"""``python -m amt.evaluate CHECKPOINT [data.root=FOLDER] [evaluate.subset=val] [key=value ...]``

Scores a checkpoint on a subset that it did not learn from, beside the mean pose of the training set. Data settings that are
not given are those of the training.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Evaluates; 0, or 2 after one line that names what was wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    from omegaconf.errors import OmegaConfBaseException

    from amt.kernels import BackendUnavailable
    from amt.model import CheckpointError
    from amt.train.cli import one_line

    try:
        run(Path(arguments[0]), arguments[1:])
    except (OmegaConfBaseException, CheckpointError, BackendUnavailable, ValueError, OSError) as error:
        print(f"amt.evaluate: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("amt.evaluate: interrupted", file=sys.stderr)
        return 130
    return 0


def run(checkpoint: Path, overrides: list[str]) -> dict:
    """Evaluates a checkpoint folder with ``key=value`` overrides, prints the table, writes metrics.json, returns its content."""
    import torch
    from tqdm import tqdm

    from amt.data.loader import make_loader, open_reader
    from amt.evaluate.baseline import MeanPose
    from amt.evaluate.evaluate import collect, score
    from amt.evaluate.report import table, write_json
    from amt.kernels import use
    from amt.model import load_checkpoint
    from amt.train.trainer import choose_device

    model, record = load_checkpoint(checkpoint)
    data, settings, kernels = _settings(record.get("data", {}), overrides)
    data = replace(data, crop=replace(data.crop, size=model.config.crop_size))
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    reader = open_reader(data, settings.subset)
    test = make_loader(data, settings.subset, settings.batch_size, augment=False, shuffle=False)
    train = make_loader(data, "train", settings.batch_size, augment=False, shuffle=False)
    mean_pose = MeanPose.of(tqdm(train, desc="mean pose of the training set", unit="batch"))
    with use(kernels.use):
        start = time.perf_counter()
        collected = collect(model.to(device), tqdm(test, desc="predicting", unit="batch"), mean_pose, device)
        seconds = time.perf_counter() - start
    figures = {
        "checkpoint": str(checkpoint),
        "data": "synthetic" if reader.record else "recorded",
        "split": data.split,
        "subset": settings.subset,
        "protocol": "V",
        "box": "true",
        "images_per_second": round(len(collected.joints) / seconds, 1),
        **score(collected, mean_pose),
    }
    path = Path(settings.output) if settings.output else checkpoint / "metrics.json"
    write_json(path, figures)
    print(table(figures))
    print(path)
    return figures


def _settings(trained_on: dict, overrides: list[str]):
    from omegaconf import OmegaConf

    from amt.data.loader import DataConfig
    from amt.evaluate.config import EvaluateConfig
    from amt.train.cli import schema
    from amt.train.config import KernelsConfig

    wrong = [word for word in overrides if "=" not in word]
    if wrong:
        raise ValueError(f"expected key=value, got {wrong[0]!r}; see python -m amt.evaluate --help")
    node = schema({"data": DataConfig, "evaluate": EvaluateConfig, "kernels": KernelsConfig})
    node = OmegaConf.merge(node, {"data": trained_on}, OmegaConf.from_dotlist(overrides))
    return (OmegaConf.to_object(node[name]) for name in ("data", "evaluate", "kernels"))


if __name__ == "__main__":
    sys.exit(main())
