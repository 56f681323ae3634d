"""Pictures of a run: the same samples each time, the prediction beside the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from amt.data.loader import Loader
from amt.draw.pictures import panel, sheet
from amt.draw.samples import predicted_scene, true_scene
from amt.files import write_bytes
from amt.hand.batch import Batch

if TYPE_CHECKING:
    from pathlib import Path

    from amt.train.trainer import Trainer

COUNT = 4  # samples
SIDE = 280  # px, of a tile


def fixed_samples(loader: Loader, count: int = COUNT) -> list[Batch]:
    """Batches of one on the CPU, with a labelled hand, spread evenly over a loader that is not shuffled."""
    found: list[Batch] = []
    for batch in loader:
        batch = batch.to("cpu")
        labelled = batch.targets.hand_valid.nonzero()[:, 0].tolist()
        found += [batch[[i]] for i in labelled[:: max(1, len(labelled) // count)]]
    places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[i] for i in places]


@torch.no_grad()
def draw_samples(trainer: Trainer, samples: list[Batch]) -> np.ndarray:
    """uint8 [H, W, 3]: what the model says of each sample as it is, in evaluation mode."""
    panels = []
    for sample in samples:
        prediction = trainer.loss(sample.to(trainer.device), trainer.step)[1].map(lambda tensor: tensor.float().cpu())
        sample = sample.to("cpu")
        image = np.ascontiguousarray(sample.inputs.image[0].permute(1, 2, 0).numpy())
        side = image.shape[0]
        faces = trainer.model.mano.faces.cpu().numpy()
        whole = np.array(((side - 1) / 2, (side - 1) / 2, side))
        scenes = predicted_scene(sample, prediction, faces), true_scene(sample, faces)
        panels.append(panel(image, *scenes, box=whole, title=f"frame {int(sample.index[0])}", size=SIDE))
    return sheet(panels)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes a JPEG by one rename."""
    import cv2

    encoded = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    write_bytes(path, encoded.tobytes())
