"""``--match FOLDER``: how sharp, noisy and bright a user's pictures are, and camera settings that make rendered ones like them.

What is told of sharpness is the slope of the radial power spectrum: the power of photographs falls as frequency ** slope, about
-2 for a sharp picture (Field, 1987), steeper for a soft one. Hands rendered with another slope than the camera's train worse.

What is matched is the spectrum's shape, because a slope does not tell a blur: the softer a picture, the lower the frequency at
which rounding and JPEG end its spectrum, and the part before that end is no steeper. Blurs of 1.5 and 2.5 px give rendered
pictures the same slope.
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
PROBES = 12  # scenes that are rendered to be measured
SHOT_TO_READ = 2.0  # shot noise at white beside read noise
SPREAD = 0.2  # of softness and noise about what matches
STOPS = 0.3  # of exposure about what matches
SOFTNESSES = (0.0, 0.3, 0.6, 0.9, 1.2, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0)  # px: tried; between them spectra are interpolated
STEP = 0.05  # px: of the softness that is found
MOST_NOISE = 15.0  # grey levels of read noise


@dataclass(frozen=True)
class Look:
    """Of a picture, or of some: the noise's median, because the noise of a picture full of detail is too high; else the mean."""

    slope: float  # of log power over log frequency
    noise: float  # grey levels: standard deviation
    brightness: float  # grey levels: mean
    contrast: float  # grey levels: standard deviation


def measure(image: np.ndarray) -> Look:
    """Of a picture uint8 [H, W, 3], RGB. Frequencies are in cycles a pixel of the picture as it is."""
    grey = _grey(image)
    window, _, frequencies, counts = _spectrum_bins(*grey.shape)
    power, noise = _powers(grey), _noise(grey)
    used = (counts > 0) & (power > ABOVE_NOISE * noise**2 * (window**2).sum())
    slope = np.polyfit(np.log(frequencies[used]), np.log(power[used]), 1)[0] if used.sum() > 2 else np.nan
    return Look(float(slope), noise, float(grey.mean()), float(grey.std()))


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _powers(grey: np.ndarray) -> np.ndarray:
    """float64 [BINS]: mean power of the frequencies of each bin; 0 where there are none."""
    window, which, _, counts = _spectrum_bins(*grey.shape)
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * window)) ** 2
    return np.bincount(which, power.ravel(), BINS + 2)[1:-1] / np.maximum(counts, 1)


def _shape(images: list[np.ndarray]) -> np.ndarray:
    """float64 [BINS]: mean over the pictures of log power a pixel; nan in bins in which no picture has any."""
    power = np.stack([_powers(_grey(image)) / image[..., 0].size for image in images])
    return np.ma.log(power).mean(0).filled(np.nan)


def _noise(grey: np.ndarray) -> float:
    """Standard deviation by Immerkaer's mask (1996), which leaves nothing of planes; the median of blocks, most of them plain."""
    mask = np.outer((1, -2, 1), (1, -2, 1)).astype(np.float32)
    response = np.abs(cv2.filter2D(grey, -1, mask))
    rows, columns = (n // BLOCK for n in grey.shape)
    blocks = response[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).mean((1, 3))
    return float(np.median(blocks) * np.sqrt(np.pi / 2) / 6)


def measure_all(images: list[np.ndarray]) -> Look:
    mean = Look(*np.nanmean([astuple(measure(image)) for image in images], 0).tolist())
    return replace(mean, noise=_noise_of_all(images))


def _noise_of_all(images: list[np.ndarray]) -> float:
    return float(np.median([_noise(_grey(image)) for image in images]))


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
    images = read_folder(folder)
    sharp = render_sharp(config)
    camera = camera_like(images, sharp, config.camera)
    looks = (measure_all(pictures) for pictures in (images, developed(sharp, config.camera), developed(sharp, camera)))
    return replace(config, camera=camera), _table(*looks, camera)


def camera_like(images: list[np.ndarray], sharp: list[np.ndarray], camera: CameraConfig) -> CameraConfig:
    """The camera with softness, noise and exposure for which pictures of :func:`render_sharp` look like ``images``.

    Noise comes first, because what is measured of it hardly depends on softness; it is found again behind the blur. Softness is
    that whose spectrum differs least from the images' but for a factor, which is contrast.
    """
    wanted, shape = measure_all(images), _shape(images)
    stops = 2.2 * np.log2(max(wanted.brightness, 1.0) / measure_all(sharp).brightness)
    stops = float(np.clip(stops, STOPS - 3, 3 - STOPS))

    def taken(softness: float, noise: float) -> list[np.ndarray]:
        fixed = {"softness": softness, "read_noise": noise, "shot_noise": SHOT_TO_READ * noise, "exposure": stops}
        return developed(sharp, replace(camera, **{name: (value, value) for name, value in fixed.items()}))

    def noise_at(softness: float) -> float:
        return _root(lambda noise: _noise_of_all(taken(softness, noise)) - wanted.noise, 0.0, MOST_NOISE)

    noise = noise_at(0.0)
    softness = _softness(shape, np.stack([_shape(taken(s, noise)) for s in SOFTNESSES]))
    noise = noise_at(softness)
    return replace(
        camera,
        exposure=(round(stops - STOPS, 3), round(stops + STOPS, 3)),
        softness=_about(softness),
        read_noise=_about(noise),
        shot_noise=_about(SHOT_TO_READ * noise),
    )


def _softness(wanted: np.ndarray, shapes: np.ndarray) -> float:
    """Where between :data:`SOFTNESSES`, whose spectra are ``shapes`` [S, BINS], a spectrum [BINS] lies; px."""
    known = np.isfinite(wanted) & np.isfinite(shapes).all(0)
    if not known.any():
        return 0.0
    fine = np.arange(SOFTNESSES[0], SOFTNESSES[-1] + STEP / 2, STEP)
    between = np.stack([np.interp(fine, SOFTNESSES, column) for column in shapes.T[known]], 1)
    return float(fine[(wanted[known] - between).var(1).argmin()])


def render_sharp(config: SetConfig) -> list[np.ndarray]:
    """Pictures of :data:`PROBES` independent scenes, without what :func:`developed` adds."""
    added = ("softness", "shot_noise", "read_noise", "exposure", "white_balance")
    return render_scenes(replace(config, camera=replace(config.camera, **dict.fromkeys(added, (0.0, 0.0)))), PROBES)


def render_scenes(config: SetConfig, count: int) -> list[np.ndarray]:
    """Pictures of the first independent scenes of a seed, before they are compressed."""
    shapes, images = load_shapes(config.objects), []
    hand = config.hand("right")
    for spec in SetConfig(seed=config.seed, independent=count).specs():
        number = scene.scene_camera(spec.seed, spec.scene)
        rig = scene.rig(spec.seed, spec.person, config.camera)
        sequence = Sequence(spec, shapes, hand, [rig[number]], (number,), config.camera, *config.pictures())
        images += [picture.image for _, _, picture, _ in sequence.render()]
    return images


def developed(images: list[np.ndarray], camera: CameraConfig) -> list[np.ndarray]:
    """Sharp pictures with a camera's softness, exposure, white balance, noise and compression, drawn for each."""
    out = []
    for number, image in enumerate(images):
        rng = np.random.default_rng(number)
        shot = lens.draw_shot(camera, 1.0, rng)
        if shot.softness:
            line = lens.soft(shot.softness).sum(0)
            image = cv2.sepFilter2D(image, -1, line, line, borderType=cv2.BORDER_REPLICATE)
        image = lens.expose(image, shot, rng)
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, shot.jpeg_quality])
        out.append(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))
    return out


def _root(function, low: float, high: float, steps: int = 8) -> float:
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
