"""What the report asks the model once more: a few samples to look at, and what a wrong K costs."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from amt import metrics
from amt.data.errors import BrokenFrame
from amt.data.loader import Loader
from amt.data.reader import Reader
from amt.draw.pictures import panel
from amt.draw.samples import predicted_scene, true_scene
from amt.draw.viewer import Shown
from amt.evaluate.boxes import LocatedBatches
from amt.evaluate.collect import Samples, joined
from amt.hand.batch import Batch
from amt.model import AMT
from amt.model.mesh import rest_hand

FEW = 3  # samples of each kind that are shown
SWEPT = 256  # samples that a wrong K is tried on
FACTORS = (0.9, 0.95, 1.0, 1.05, 1.1)  # of both focal lengths
TILE = 300  # px
QUALITY = 80  # of JPEG, 0-100


@dataclass(frozen=True)
class Looks:
    """What pictures and sweeps a report shows."""

    pictures: list[tuple[str, str]]  # title, JPEG in base64
    scenes: list[Shown]  # for the viewer
    rest: list[tuple[float, float]]  # where the joints of a flat hand lie, x right and y down
    wrong_k: dict[str, list[float]]  # by figure: mean errors, mm, for FACTORS; empty where there is no sample


@torch.no_grad()
def look(model: AMT, batches: Iterable[Batch], samples: Samples, reader: Reader, names: list[str]) -> Looks:
    """Runs the model on the best, the middle and the worst samples, and on some with a wrong K.

    Args:
        batches: that ``samples`` come from, in their order; names: of the samples' objects.
    """
    device = next(model.parameters()).device
    faces = model.mano.faces.cpu().numpy()
    pictures, scenes = [], []
    chosen = extremes(samples)
    for (kind, place), sample in zip(chosen, at(batches, [place for _, place in chosen])):
        prediction = model(sample.inputs.to(device)).map(lambda tensor: tensor.float().cpu())
        error = float(samples.model.aligned_mm[place].mean())
        title = f"{kind}: frame {int(sample.index[0])}, {names[place]}, {error:.1f} mm wrist-aligned"
        shown = Shown(
            title, predicted_scene(sample, prediction, faces, full=True), true_scene(sample, faces, full=True)
        )
        pictures.append((title, _picture(sample, shown, reader)))
        scenes.append(shown)
    joints = rest_hand(model.mano)[1].cpu()
    return Looks(
        pictures=pictures,
        scenes=scenes,
        rest=[(float(x), float(y)) for x, y in zip(-joints[:, 2], joints[:, 0])],
        wrong_k=_sweep(model, batches, samples, device),
    )


def extremes(samples: Samples) -> list[tuple[str, int]]:
    """Kind and place of the samples with the lowest, middle and highest wrist-aligned errors; fewer where there are few."""
    error = samples.model.aligned_mm.mean(dim=1)
    known = (samples.hand_valid & ~samples.missed & error.isfinite()).nonzero()[:, 0]
    order = known[error[known].argsort(stable=True)].tolist()
    middle = max(0, len(order) // 2 - FEW // 2)
    kinds = {"best": order[:FEW], "median": order[middle : middle + FEW], "worst": order[::-1][:FEW]}
    found: dict[int, str] = {}
    for kind, places in kinds.items():
        for place in places:
            found.setdefault(place, kind)
    return [(kind, place) for place, kind in found.items()]


def at(batches: Iterable[Batch], places: list[int]) -> list[Batch]:
    """The samples at these places of all batches, each as a batch of one. A loader cuts only these."""
    if isinstance(batches, LocatedBatches):
        return [one for batch in at(batches.batches, places) for one in batches.of([batch])]
    if isinstance(batches, Loader):
        rows = batches.windows.reshape(-1)
        return [batches.dataset.batch(rows[[place]]).to("cpu") for place in places]
    starts, found = 0, {}
    for batch in batches:
        count = len(batch.index)
        found |= {place: batch[[place - starts]] for place in places if starts <= place < starts + count}
        starts += count
    return [found[place] for place in places]


def _sweep(model: AMT, batches: Iterable[Batch], samples: Samples, device: torch.device) -> dict[str, list[float]]:
    labelled = (samples.hand_valid & ~samples.missed).nonzero()[:, 0].tolist()
    if not labelled:
        return {}
    places = [labelled[k] for k in np.unique(np.linspace(0, len(labelled) - 1, min(SWEPT, len(labelled))).astype(int))]
    singles = at(batches, places)
    figures: dict[str, list[float]] = {"absolute": [], "wrist-aligned": [], "Procrustes": []}
    measures = (metrics.absolute_error_mm, metrics.wrist_aligned_error_mm, metrics.procrustes_error_mm)
    for factor in FACTORS:
        errors: list[list[Tensor]] = [[], [], []]
        for start in range(0, len(singles), 64):
            part = singles[start : start + 64]
            inputs, true = joined([one.inputs for one in part]), torch.cat([one.targets.joints for one in part])
            scale = torch.tensor([[factor, factor, 1], [factor, factor, 1], [1, 1, 1]])  # focal lengths and skew
            wrong = replace(
                inputs, intrinsics=inputs.intrinsics * scale, frame_intrinsics=inputs.frame_intrinsics * scale
            )
            joints = model(wrong.to(device)).joints.cpu()
            for kept, measure in zip(errors, measures):
                kept.append(measure(joints, true).mean(dim=1))
        for name, kept in zip(figures, errors):
            figures[name].append(float(torch.cat(kept).mean()))
    return figures


def _picture(sample: Batch, shown: Shown, reader: Reader) -> str:
    """A strip with prediction, truth and the view from the side, over the full picture."""
    import cv2

    try:
        image = np.ascontiguousarray(reader.frame_at(int(sample.index[0])).image())
    except BrokenFrame:
        return ""
    strip = panel(image, shown.scene, shown.truth, title=shown.title.partition(":")[0], size=TILE)
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(strip[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return base64.b64encode(encoded.tobytes()).decode()
