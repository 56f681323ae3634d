"""A recording for the Rerun viewer (https://rerun.io): hands, objects and camera in 3D and in the picture, over time."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amt.draw.paint import JOINT_COLOURS
from amt.errors import UsageError
from amt.hand.skeleton import BONES

if TYPE_CHECKING:
    from amt.draw.hand_object import HandObject

TRUTH = "truth"  # beside the predicted hands


def check_recording(path: Path, option: str = "--rerun", overwrite: bool = False) -> None:
    """Raises UsageError, in one line that names ``option``, where no recording can be written to ``path``."""
    if find_spec("rerun") is None:
        raise UsageError(f"{option}: the package rerun-sdk is not installed; pip install amt[rerun] brings it")
    if path.suffix != ".rrd" or not path.parent.is_dir():
        raise UsageError(f"{option}: expected the name of an .rrd file in a folder that exists, got {path}")
    if path.exists() and not overwrite:
        raise UsageError(f"{option}: {path} exists; give another name or add --overwrite")


class Recording:
    """An .rrd file. Needs the package rerun-sdk.

    A context manager. Each picture is written when it is added, so that a run that is killed leaves what came before.

    The entities are ``camera`` (K) and ``camera/image``; a hand's ``hands/N/joints`` (m), ``hands/N/mesh``, ``hands/N/object``
    and ``camera/image/hands/N`` (px), where N is its number; and the same for ``truth`` in place of ``hands/N``. What touches is
    red, on the mesh and among the object's points.
    """

    def __init__(self, path: Path):
        self.path = path
        self._count, self._shown = 0, set()

    def __enter__(self) -> Recording:
        import rerun
        import rerun.blueprint as layout

        self.rerun = rerun
        self.stream = rerun.RecordingStream("amt")
        self.stream.save(
            str(self.path),
            layout.Blueprint(
                layout.Horizontal(
                    layout.Spatial3DView(origin="/"), layout.Spatial2DView(origin="camera", contents="camera/**")
                )
            ),
        )
        self.stream.log("/", rerun.ViewCoordinates.RDF, static=True)  # x right, y down, z forward
        return self

    def add(
        self,
        image: np.ndarray,
        scenes: Sequence[HandObject],
        numbers: Sequence[int | None] = (),
        truth: HandObject | None = None,
        picture: int | None = None,
        time_s: float | None = None,
    ) -> None:
        """Adds a picture and what was found in it; a hand that this picture lacks is cleared.

        Args:
            image: uint8 [H, W, 3], RGB.
            scenes: one a hand; those whose ``hand_found`` is False are left out.
            numbers: of the hands, which they keep from picture to picture; None: the place in ``scenes``.
            picture: its number; None: one more than that of the picture before.
            time_s: since the start of a video, s.
        """
        rerun, log = self.rerun, self.stream.log
        number = self._count if picture is None else picture
        self._count = number + 1
        self.stream.set_time("picture", sequence=number)
        if time_s is not None:
            self.stream.set_time("time", duration=time_s)
        shown = {
            f"hands/{k if k >= len(numbers) or numbers[k] is None else numbers[k]}": scene
            for k, scene in enumerate(scenes)
            if scene.hand_found
        }
        if truth is not None:
            shown[TRUTH] = truth
        height, width = image.shape[:2]
        log("camera", rerun.Pinhole(image_from_camera=scenes[0].intrinsics, resolution=[width, height]))
        log("camera/image", rerun.Image(image).compress(jpeg_quality=85))
        for name in sorted(self._shown - set(shown)):
            for entity in (name, f"camera/image/{name}"):
                log(entity, rerun.Clear(recursive=True))
        for name, scene in shown.items():
            self._log(name, scene)
        self._shown = set(shown)

    def _log(self, name: str, scene: HandObject) -> None:
        from amt.draw.scene import GREY, OBJECT, camera_view, point_colours, vertex_colours

        rerun, log = self.rerun, self.stream.log
        colours = [GREY] * len(JOINT_COLOURS) if name == TRUTH else JOINT_COLOURS
        of_bones = [colours[joint] for _, joint in BONES]
        pixels = camera_view(scene.intrinsics, scene.lens)(scene.joints)[0]
        bones = np.array(BONES)
        log(f"{name}/joints", rerun.Points3D(scene.joints, colors=colours, radii=0.004))
        log(f"{name}/bones", rerun.LineStrips3D(scene.joints[bones], colors=of_bones, radii=0.002))
        log(f"camera/image/{name}", rerun.LineStrips2D(pixels[bones], colors=of_bones, radii=1.5))
        if scene.vertices is not None:
            mesh = {"vertex_positions": scene.vertices, "triangle_indices": scene.faces}
            skin = vertex_colours(scene, *([GREY] if name == TRUTH else [])).astype(np.uint8)
            log(f"{name}/mesh", rerun.Mesh3D(**mesh, vertex_colors=skin))
        if scene.has_object:
            points, dots = scene.in_camera(scene.object_points), point_colours(scene, GREY if name == TRUTH else OBJECT)
            log(f"{name}/object", rerun.Points3D(points, colors=dots, radii=0.002))

    def __exit__(self, *_) -> None:
        self.stream.flush()
        self.stream.disconnect()
