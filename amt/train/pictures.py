"""Pictures of a run: the same samples each time, the prediction beside the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from amt.data.loader import Loader
from amt.draw.hand_object import HandObject
from amt.draw.pictures import panel, sheet
from amt.files import write_bytes
from amt.hand.batch import Batch
from amt.model.outputs import Prediction

if TYPE_CHECKING:
    from pathlib import Path

    from amt.train.trainer import Trainer

COUNT = 4  # samples
SIDE = 280  # px, of a tile


def fixed_samples(loader: Loader, count: int = COUNT) -> list[Batch]:
    """Batches of one, with a labelled hand, spread evenly over a loader that is not shuffled."""
    found: list[Batch] = []
    for batch in loader:
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
        scenes = _predicted(sample, prediction, faces), _true(sample, faces)
        panels.append(panel(image, *scenes, box=whole, title=f"frame {int(sample.index[0])}", size=SIDE))
    return sheet(panels)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes a JPEG by one rename."""
    import cv2

    encoded = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    write_bytes(path, encoded.tobytes())


def _predicted(sample: Batch, p: Prediction, faces: np.ndarray) -> HandObject:
    scene = {"joints": p.joints, "vertices": p.vertices, "hand_contact": p.hand_contact.sigmoid()}
    if sample.targets.object_valid[0]:
        scene |= {"object_rotation": p.object_rotation, "object_translation": p.object_translation}
        scene |= {"object_contact": p.object_contact.sigmoid()}
    return _scene(sample, faces, scene)


def _true(sample: Batch, faces: np.ndarray) -> HandObject:
    t = sample.targets
    scene = {"joints": t.joints, "vertices": t.vertices}
    if t.contact_valid[0]:
        scene |= {"hand_contact": t.hand_contact.float(), "object_contact": t.object_contact.float()}
    if t.object_valid[0]:
        scene |= {"object_rotation": t.object_rotation, "object_translation": t.object_translation}
    return _scene(sample, faces, scene)


def _scene(sample: Batch, faces: np.ndarray, parts: dict[str, torch.Tensor]) -> HandObject:
    inputs = sample.inputs
    if "object_rotation" in parts:
        parts["object_points"] = inputs.object_points
    right = bool(inputs.right[0])
    return HandObject(
        side="right" if right else "left",
        intrinsics=inputs.intrinsics[0].numpy(),
        faces=faces if right else np.ascontiguousarray(faces[:, ::-1]),
        object_class=int(inputs.object_class[0]),
        **{name: value[0].numpy() for name, value in parts.items()},
    )
