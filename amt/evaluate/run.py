"""The evaluation of a checkpoint, from start to end."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from amt.config import choose_device, set_threads
from amt.data.ho3d import HO3D
from amt.data.loader import make_loader, open_reader
from amt.data.protocols import PROTOCOLS
from amt.draw.recording import check_recording
from amt.errors import UsageError
from amt.evaluate.boxes import LocatedBatches, find_locator
from amt.evaluate.collect import Answer, collect
from amt.evaluate.config import NO_REPORT
from amt.evaluate.places import places, symmetries
from amt.evaluate.recorded import RecordedFrames
from amt.evaluate.report import look, page
from amt.evaluate.results import ResultWriter, hand_mesh, ho3d, score_file
from amt.evaluate.samples import write_samples
from amt.evaluate.score import movement, score
from amt.evaluate.tables import all_tables, write_json
from amt.files import check_writable, write_text
from amt.hand.batch import Batch
from amt.kernels import use
from amt.model import AMT
from amt.model.checkpoint import METRICS, REPORT, SAMPLES, load_mean_pose, weights_digest
from amt.model.loading import load_checkpoint
from amt.model.mean_pose import MeanPose
from amt.model.shipped import is_shipped
from amt.physics.extra import PACKAGES, package
from amt.physics.frames import Judging


def run(checkpoint: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Evaluates a checkpoint folder with composed settings: prints tables, writes files, returns metrics.json's content."""
    chosen = settings["evaluate"]
    data = replace(settings["data"], protocol=chosen_protocol(settings))
    set_threads(chosen.threads)
    device = choose_device(chosen.device, "evaluate.device")
    if chosen.write and data.limit is not None:
        raise UsageError("evaluate.write needs a whole subset; leave data.limit out")
    if chosen.write and data.layout == "ho3d" and chosen.subset != "test":
        raise UsageError("evaluate.write: HO-3D's pred.json is of its evaluation set; take evaluate.subset=test")
    # nothing is written into the package
    own = Path(f"{checkpoint.name}-evaluation") if is_shipped(checkpoint) else checkpoint
    path = Path(chosen.output) if chosen.output else own / METRICS
    page_path = None if chosen.report in NO_REPORT else Path(chosen.report or path.with_name(REPORT))
    places_of = {"evaluate.output": path, SAMPLES: path.with_name(SAMPLES), "evaluate.report": page_path}
    files_of = {name: place.resolve() for name, place in places_of.items() if place}
    for name, place in files_of.items():
        same = [other for other, its in files_of.items() if other != name and its == place]
        if same:
            raise UsageError(f"{name} and {same[0]} would be one file, {place}: name two")
    for place in (*places_of.values(), chosen.write and Path(chosen.write)):
        if place:
            check_writable(place)  # before any work
    if chosen.rerun:
        check_recording(Path(chosen.rerun), "evaluate.rerun", overwrite=True)
    for name in PACKAGES if chosen.physics else ():
        package(name)  # before any work
    model, _ = load_checkpoint(checkpoint, hand=settings["model"].hand)
    model = model.to(device)
    reader = open_reader(data, chosen.subset)
    if chosen.write and data.layout == "ho3d":
        return _challenge(model, reader, settings, device, path)
    # Crops as they are seen: training's cuts are wider, up to six times as many pixels, which nothing here would look at.
    crops = replace(data, crop=replace(data.crop, margin=1.0))
    test = make_loader(crops, chosen.subset, chosen.batch_size, augment=False, shuffle=False)
    batches = (
        test
        if chosen.box == "truth"
        else LocatedBatches(
            test, reader, find_locator(checkpoint, data.crop.box_scale, device), model, data.crop.box_scale
        )
    )
    mean_pose = load_mean_pose(checkpoint)
    if mean_pose is None:
        print(
            "the checkpoint holds no mean pose: it is computed from the training set; newer ones hold it",
            file=sys.stderr,
        )
        train = make_loader(data, "train", chosen.batch_size, augment=False, shuffle=False)
        mean_pose = MeanPose.of(tqdm(train, desc="mean pose of the training set", unit="batch"))
    missed = batches.missed if isinstance(batches, LocatedBatches) else frozenset()
    writer = ResultWriter(reader, mean_pose.joints.double().numpy()) if chosen.write else None
    judging = Judging(reader) if chosen.physics else None

    recording = RecordedFrames(Path(chosen.rerun), reader, model.mano.faces.cpu().numpy()) if chosen.rerun else None

    def told(answer: Answer, batch: Batch) -> None:
        if recording is not None:
            recording.take(answer, batch)
        if writer is not None:
            writer.take(answer, batch)
        if judging is not None:
            judging.take(answer.vertices, answer.object_rotation, answer.object_translation, batch)

    with use(settings["kernels"].use), recording or nullcontext():
        start = time.perf_counter()
        bar = tqdm(batches, desc="predicting", unit="batch")
        samples, beliefs = collect(model, bar, mean_pose, device, symmetries(reader), missed, told)
        seconds = time.perf_counter() - start
    where = places(reader, samples)
    figures = {
        "checkpoint": str(checkpoint),
        "weights_sha256": weights_digest(checkpoint),
        "data": "synthetic" if reader.record else "recorded",
        "split": data.split,
        "subset": chosen.subset,
        "protocol": data.protocol or ("V" if data.split == PROTOCOLS["V"].split else "T"),  # the same frames
        "box": "true" if chosen.box == "truth" else chosen.box,
        **score(samples, beliefs, {name: where[name] for name in ("object", "camera", "subject")}),
        **movement(samples, where),
    }
    if judging is not None:
        figures["physics"] = judging.figures()
    written = [path, path.with_name(SAMPLES), *([recording.path] if recording else [])]
    write_json(path, figures)
    write_samples(written[1], samples, where)
    if page_path is not None:
        written.append(page_path)
        with use(settings["kernels"].use):
            looks = look(model, batches, samples, reader, where["object"])
        write_text(page_path, page(figures, samples, beliefs, looks))
    if writer is not None:
        files, missing = writer.write(Path(chosen.write))
        written += files
        if missing:
            print(f"{missing} labelled frames have no crop: the result files hold the mean hand there", file=sys.stderr)
    print(all_tables(figures))
    print(f"{len(samples) / seconds:.1f} images a second")
    print("\n".join(map(str, written)))
    return figures


def _challenge(model: AMT, reader: HO3D, settings: dict[str, Any], device: torch.device, path: Path) -> dict[str, Any]:
    """HO-3D's evaluation set, whose hands nobody but its makers knew for years: writes what its challenge takes.

    Where the labels that they published since lie in the set's folder, the file is scored, and the figures are written.
    """
    chosen, crop = settings["evaluate"], settings["data"].crop
    with use(settings["kernels"].use):
        found = ho3d.predict(model, reader, crop, chosen.batch_size, device)
        written = ho3d.write(Path(chosen.write), tqdm(found, desc="predicting", unit="frame", total=len(reader)))
    if reader.broken:
        print(f"{reader.report()}; the result file holds zeros there", file=sys.stderr)
    if model.mano.num_vertices != ho3d.VERTICES:
        print(
            f"the checkpoint's hand has {model.mano.num_vertices} vertices, and the challenge compares MANO's {ho3d.VERTICES}; "
            "train with model.hand=MANO_RIGHT.pkl",
            file=sys.stderr,
        )
    figures = {}
    if all((reader.root / part).is_file() for part in hand_mesh.TRUTH):
        figures = score_file({**settings, "evaluate": replace(chosen, results=str(written[0]), output=str(path))})
        written.append(path)
    print("\n".join(map(str, written)))
    return figures


def chosen_protocol(settings: dict[str, Any]) -> str | None:
    """evaluate.protocol, or data.protocol. Raises UsageError where they contradict each other."""
    ours, data = settings["evaluate"].protocol, settings["data"].protocol
    if None not in (ours, data) and ours != data:
        raise UsageError(f"evaluate.protocol={ours} contradicts data.protocol={data}: give one of them")
    return ours or data
