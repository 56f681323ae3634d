"""``evaluate.results=FILE``: which form a result file has, and its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from amt.data.reader import Reader
from amt.errors import UsageError
from amt.evaluate.results import bop, hand_mesh, hand_pose
from amt.evaluate.results.bop_models import Models
from amt.evaluate.results.checks import ResultError
from amt.evaluate.results.truth import HandTruth, check_folder, frames, hand_truth, meshes, subset
from amt.evaluate.tables import write_json
from amt.files import check_writable

FORMS = {".txt": "hand pose", ".csv": "object poses", ".json": "hand meshes", ".zip": "hand meshes"}


def score_file(settings: dict[str, Any]) -> dict[str, Any]:
    """Scores a result file with composed settings, prints the figures, writes them where ``evaluate.output`` says.

    Raises:
        ResultError: the file is refused; one line that names the place in it and the remedy.
        DataError: the set cannot be read.
    """
    chosen, data = settings["evaluate"], settings["data"]
    path = Path(chosen.results)
    if path.suffix not in FORMS:
        raise UsageError(f"evaluate.results={path}: expected a file *{', *'.join(FORMS)}")
    if not path.is_file():
        raise UsageError(f"evaluate.results={path}: no such file")
    protocol = chosen.protocol or data.protocol
    if protocol not in (None, "T"):
        raise UsageError(
            f"evaluate.protocol={protocol}: official evaluators score every labelled frame of a subset, protocol T; leave it out"
        )
    root = check_folder(data.root)
    if chosen.output:
        check_writable(Path(chosen.output))
    form = FORMS[path.suffix]
    if form == "hand pose":
        truth = hand_truth(_dexycb(settings))
        figures = {"protocol": "T", "frames": len(truth.index)} | hand_pose.score(hand_pose.read(path, truth), truth)
        name = truth.name
    elif form == "object poses":
        reader = _dexycb(settings)
        figures, name = score_objects(path, reader), f"{reader.split} {reader.subset}"
    elif all((root / part).is_file() for part in hand_mesh.TRUTH):
        figures, name = _challenge(path, root), root.name
    else:
        figures, name = _like_freihand(path, _dexycb(settings))
    figures = {"results": str(path), "form": form, "set": name, **figures}
    print(text(figures))
    if chosen.output:
        write_json(Path(chosen.output), figures)
    return figures


def score_objects(path: Path, reader: Reader) -> dict[str, Any]:
    """BOP's average recalls, 0-1, of all objects ("all") and of the grasped ones ("grasped"), and by object.

    An object that the file does not estimate is missed, as BOP counts it; "estimated" says how many are there.
    """
    scenes = bop.SceneIds(reader)
    found = bop.read(path, len(scenes), len(reader))
    every = np.array([i for i in range(len(reader)) if reader.locate(i)[2] % bop.EVERY == 0])
    wanted = [((*scenes[t.frame], t.obj_id), t) for t in bop.targets(frames(reader, every))]
    bop.check(path, found, wanted)
    estimated, strangers = np.array([key in found for key, _ in wanted]), bop.strangers(found, wanted)
    if 2 * strangers > len(found):
        print(
            f"{path}: {strangers} of {len(found)} estimates are of objects that the scenes of this subset do not have: is the "
            "file of another split?",
            file=sys.stderr,
        )
    models = Models(reader)
    vsd, mssd, mspd = np.ones((len(wanted), len(bop.SHARES))), *np.full((2, len(wanted)), np.inf)
    for row, (key, target) in enumerate(tqdm(wanted, desc="scoring", unit="object")):
        if key in found:
            best = max(found[key], key=lambda estimate: estimate.score)  # the first of equals
            vsd[row], mssd[row], mspd[row] = bop.errors(best, target, models[target.obj_id], target.frame.depth())
    names = np.array([reader.objects.names[target.obj_id] for _, target in wanted])
    grasped = np.array([target.grasped for _, target in wanted])

    def recalls(rows: np.ndarray) -> dict[str, Any]:
        counts = {"objects": int(rows.sum()), "estimated": int((rows & estimated).sum())}
        return {**counts, **bop.average_recall(vsd[rows], mssd[rows], mspd[rows])}

    return {
        "all": recalls(np.ones(len(wanted), bool)),
        "grasped": recalls(grasped),
        "by_object": {str(name): recalls(names == name) for name in np.unique(names)},
    }


def text(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{figures['form']}, {figures['set']}: {figures['results']}"]
    for name, value in figures.items():
        if isinstance(value, float):
            lines.append(f"  {name:32s}{value:10.4f}")
    groups = {"all objects": figures.get("all"), "grasped": figures.get("grasped"), **figures.get("by_object", {})}
    if figures.get("all"):
        lines.append("  average recalls in %")
    for name, row in groups.items():
        if row:
            recalls = "".join(f"  {key.upper()} {100 * row[key]:7.3f}" for key in ("vsd", "mssd", "mspd", "ar"))
            lines.append(f"  {name:24s}{row['estimated']:7d} of {row['objects']:7d} estimated{recalls}")
    return "\n".join(lines)


def _dexycb(settings: dict[str, Any]) -> Reader:
    layout = settings["data"].layout
    if layout != "dexycb":
        raise UsageError(
            f"data.layout={layout}: of such a set pred.json alone is scored, with {' and '.join(hand_mesh.TRUTH)} in data.root"
        )
    return subset(settings)


def _challenge(path: Path, root: Path) -> dict[str, Any]:
    """FreiHAND's or HO-3D's figures; the latter's folder has evaluation.txt."""
    ho3d = (root / "evaluation.txt").is_file()
    labels = []
    for part in hand_mesh.TRUTH:
        try:
            labels.append(np.array(json.loads((root / part).read_bytes()), np.float64))
        except (ValueError, TypeError, RecursionError) as error:
            raise ResultError(f"{root / part}: are no labels ({error}); copy the file anew") from error
    joints, vertices = hand_mesh.read(path, len(labels[0]))
    hand_mesh.check(path, joints, vertices, labels[0], ho3d)
    return {"frames": len(joints), "challenge": "HO-3D" if ho3d else "FreiHAND"} | hand_mesh.score(
        joints, vertices, *labels, ho3d
    )


def _like_freihand(path: Path, reader: Reader) -> tuple[dict[str, Any], str]:
    """FreiHAND's figures on the labelled frames of a set in DexYCB's layout."""
    truth: HandTruth = hand_truth(reader)
    joints, vertices = hand_mesh.read(path, len(truth.index))
    hand_mesh.check(path, joints, vertices, truth.joints / 1000)
    figures = hand_mesh.score(joints, vertices, truth.joints / 1000, meshes(reader, truth.index))
    return {"protocol": "T", "frames": len(joints), "challenge": "FreiHAND's form"} | figures, truth.name
