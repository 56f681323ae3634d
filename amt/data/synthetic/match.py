"""``--match FOLDER``: how sharp, noisy and bright a user's pictures are, and camera settings that make rendered ones like them.

Sharpness is the slope of the radial power spectrum: the power of photographs falls as frequency ** slope, about -2 for a sharp
picture (Field, 1987), steeper for a soft one. Hands rendered with another slope than the camera's train worse.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from amt.data.backgrounds import picture_files
from amt.data.errors import DataError, ImageError
from amt.data.images import read_image
from amt.data.synthetic import lens, scene
from amt.data.synthetic.cameras import CameraConfig
from amt.data.synthetic.config import SetConfig
from amt.data.synthetic.objects import load_shapes
from amt.data.synthetic.sequence import Sequence

WIDTH = 640  # px: larger pictures are averaged down to it, as large as rendered ones
BAND = (0.04, 0.4)  # cycles a pixel: between the scene's own shapes and the end of the grid
BINS = 24
BLOCK = 16  # px: side of the blocks in which noise is measured
ABOVE_NOISE = 2.0  # the slope is that of the frequencies with more than so many times the noise's power
MOST_PICTURES = 200  # of a folder
PROBES = 6  # scenes that are rendered to be measured
SHOT_TO_READ = 2.0  # shot noise at white beside read noise
SPREAD = 0.2  # of softness and noise about what matches
STOPS = 0.3  # of exposure about what matches


@dataclass(frozen=True)
class Look:
    """The medians over some pictures."""

    slope: float  # of log power over log frequency
    noise: float  # grey levels: standard deviation
    brightness: float  # grey levels: mean
    contrast: float  # grey levels: standard deviation


def measure(image: np.ndarray) -> Look:
    """Of a picture uint8 [H, W, 3], RGB. Frequencies are in cycles a pixel of the picture as it is."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    window, which, frequencies, counts = _spectrum_bins(*grey.shape)
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * window)) ** 2
    mean = np.bincount(which, power.ravel(), BINS + 2)[1:-1] / np.maximum(counts, 1)
    noise = _noise(grey)
    used = (counts > 0) & (mean > ABOVE_NOISE * noise**2 * (window**2).sum())
    slope = np.polyfit(np.log(frequencies[used]), np.log(mean[used]), 1)[0] if used.sum() > 2 else np.nan
    return Look(float(slope), noise, float(grey.mean()), float(grey.std()))


def _noise(grey: np.ndarray) -> float:
    """Standard deviation by Immerkaer's mask (1996), which leaves nothing of planes; the median of blocks, most of them plain."""
    mask = np.outer((1, -2, 1), (1, -2, 1)).astype(np.float32)
    response = np.abs(cv2.filter2D(grey, -1, mask))
    rows, columns = (n // BLOCK for n in grey.shape)
    blocks = response[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).mean((1, 3))
    return float(np.median(blocks) * np.sqrt(np.pi / 2) / 6)


def measure_all(images: list[np.ndarray]) -> Look:
    return Look(*np.nanmedian([astuple(measure(image)) for image in images], 0).tolist())


def read_folder(folder: str) -> list[np.ndarray]:
    """A folder's pictures, at most :data:`WIDTH` px wide. Raises DataError."""
    images = []
    for path in picture_files(folder, "--match")[:MOST_PICTURES]:
        try:
            image, _ = read_image(path)
        except ImageError:
            continue
        if image.shape[1] > WIDTH:
            height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
            image = cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA)
        if min(image.shape[:2]) >= 64:
            images.append(image)
    if not images:
        raise DataError(
            f"--match: {folder} holds no picture of 64 px or more that can be read; name a folder of pictures"
        )
    return images


def match(config: SetConfig, folder: str) -> tuple[SetConfig, str]:
    """The configuration with softness, noise and exposure set so that rendered pictures look like a folder's, and a table.

    Raises:
        DataError: the folder holds no picture that can be read.
    """
    wanted = measure_all(read_folder(folder))
    before = measure_all(_developed(_render(config, config.camera), config.camera))
    bare = replace(config.camera, softness=(0.0, 0.0), shot_noise=(0.0, 0.0), read_noise=(0.0, 0.0))
    pictures = _render(config, bare)
    low, high = bare.exposure
    stops = 2.2 * np.log2(max(wanted.brightness, 1.0) / measure_all(pictures).brightness)
    stops = float(np.clip(stops, -2.7 - (low + high) / 2, 2.7 - (low + high) / 2))

    def look(softness: float, noise: float) -> Look:
        return measure_all(_developed(pictures, bare, softness, noise, stops))

    softness, noise = 0.0, 0.0
    for _ in range(2):  # noise flattens the spectrum, softness hides noise
        noise = _root(lambda n, s=softness: look(s, n).noise - wanted.noise, 0.0, 15.0)
        softness = _root(lambda s, n=noise: wanted.slope - look(s, n).slope, 0.0, 4.0)
    middle = (low + high) / 2 + stops
    camera = replace(
        bare,
        exposure=(round(middle - STOPS, 3), round(middle + STOPS, 3)),
        softness=_about(softness),
        read_noise=_about(noise),
        shot_noise=_about(SHOT_TO_READ * noise),
    )
    after = measure_all(_developed(_render(config, camera), camera))
    return replace(config, camera=camera), _table(wanted, before, after, camera)


def _render(config: SetConfig, camera: CameraConfig) -> list[np.ndarray]:
    """Pictures of independent scenes before they are compressed."""
    shapes, images = load_shapes(config.objects), []
    hand = config.hand("right")
    for spec in SetConfig(seed=config.seed, independent=PROBES).specs():
        number = scene.scene_camera(spec.seed, spec.scene)
        rig = scene.rig(spec.seed, spec.person, camera)
        sequence = Sequence(spec, shapes, hand, [rig[number]], (number,), camera, *config.pictures())
        images += [picture.image for _, _, picture, _ in sequence.render()]
    return images


def _developed(
    images: list[np.ndarray], camera: CameraConfig, softness: float = 0.0, noise: float = 0.0, stops: float = 0.0
) -> list[np.ndarray]:
    """Pictures with a blur, an exposure and noise, as their files hold them."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(sum(camera.jpeg_quality) / 2)]
    fixed = {"read_noise": noise, "shot_noise": SHOT_TO_READ * noise, "exposure": stops, "white_balance": 0.0}
    camera = replace(camera, **{name: (value, value) for name, value in fixed.items()})
    out = []
    for number, image in enumerate(images):
        if softness:
            image = cv2.filter2D(image, -1, lens.soft(softness), borderType=cv2.BORDER_REPLICATE)
        if noise or stops:
            rng = np.random.default_rng(number)
            image = lens.expose(image, lens.draw_shot(camera, 1.0, rng), rng)
        _, data = cv2.imencode(".jpg", image, quality)
        out.append(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return out


def _root(function, low: float, high: float, steps: int = 6) -> float:
    """Where a growing function passes 0, by bisection; the nearer end where it does not."""
    if function(low) >= 0:
        return low
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2


def _about(value: float) -> tuple[float, float]:
    return round((1 - SPREAD) * value, 3), round((1 + SPREAD) * value, 3)


def _table(wanted: Look, before: Look, after: Look, camera: CameraConfig) -> str:
    rows = [
        ("", "yours", "rendered before", "rendered now"),
        *(
            (name, *(f"{getattr(look, field):.2f}" for look in (wanted, before, after)))
            for name, field in (
                ("spectrum's slope", "slope"),
                ("noise, grey levels", "noise"),
                ("brightness, grey levels", "brightness"),
                ("contrast, grey levels", "contrast"),
            )
        ),
    ]
    lines = ["{:24} {:>8} {:>16} {:>13}".format(*row).rstrip() for row in rows]
    names = ("softness", "read_noise", "shot_noise", "exposure")
    words = " ".join(f"{name}={low:g},{high:g}" for name in names for low, high in [getattr(camera, name)])
    lines.append(f"the same without measuring: --camera {words}")
    if camera.softness[1] == 0:
        lines.append("yours are sharper than rendered ones can be: softness is 0")
    return "\n".join(lines)


@lru_cache(maxsize=4)
def _spectrum_bins(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hann window, each frequency's bin (0 and BINS + 1: outside BAND), the bins' middles and how many lie in each."""
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)).ravel()
    edges = np.geomspace(*BAND, BINS + 1)
    which = np.digitize(radius, edges)
    counts = np.bincount(which, minlength=BINS + 2)[1:-1]
    middles = np.bincount(which, np.log(np.maximum(radius, 1e-9)), BINS + 2)[1:-1] / np.maximum(counts, 1)
    return window, which, np.exp(middles), counts
