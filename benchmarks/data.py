"""`python -m benchmarks.data` measures how fast pictures become normalised crops, beside a plain PyTorch DataLoader with Pillow.

All ways make the same 224 px crops of the same frames on the same device, in turns: the DataLoader with one worker a core, ours
from the files with one thread a core, ours from the crop cache, as they are and varied. Then the share of a training step of
`tiny` that waits for data, and the decoders that are installed. The results file lies in benchmarks/results/data; `--results`
names another one, such as a card's, that gets the rates as a record.
"""

from __future__ import annotations

from amt.startup import bound_spin, keep_memory

if __name__ == "__main__":  # as every program does, before PyTorch loads
    bound_spin()
    keep_memory()

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from amt.config import KernelsConfig
from amt.data import jpeg
from amt.data.config import CropConfig, DataConfig
from amt.data.crops import cut, rows_needed
from amt.data.images import read_image
from amt.data.loader import Loader, make_loader, open_reader
from amt.data.threads import ahead
from amt.hand.camera import crop_camera
from amt.model.backbone import IMAGE_MEAN, IMAGE_STD, Normalize
from amt.model.config import ModelConfig
from amt.train.config import Config, TrainConfig
from benchmarks import results

SIZE, BATCH = 224, 32
TURNS = 3
GOALS = {"files": 2.0, "cache": 15.0}  # times the samples/s of the DataLoader
GPU_GOAL = 10_000  # varied crops/s from the cache, on a GPU
MOST_WAIT = 0.05  # share of a step of tiny


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", metavar="FOLDER", help="a set in DexYCB's layout (default: the synthetic one)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=int, default=512)
    parser.add_argument("--steps", type=int, default=30, help="of the training that is watched; 0: none")
    parser.add_argument("--output", type=Path, help="results file (default: benchmarks/results/data/<machine>.json)")
    parser.add_argument("--results", type=Path, help="a results file of benchmarks.run that gets a record, too")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as cache:
        config = DataConfig(root=options.data, split="s0", cache=cache, crop=CropConfig(size=SIZE))
        record = {"machine": results.machine_name(device), "pytorch": torch.__version__, "commit": results.commit()}
        record |= {
            "cores": core_count(),
            "crop_px": SIZE,
            "batch": BATCH,
            "samples_per_s": throughput(config, device, options.frames),
        }
        record["decode_ms"] = decoders(config, min(64, options.frames))
        if options.steps:
            record["wait_share_of_a_tiny_step"] = wait_share(config, device, options.steps, min(BATCH, options.frames))
    for name, value in record.items():
        print(f"{name}: {json.dumps(value)}")
    rates = record["samples_per_s"]
    for name, goal in GOALS.items():
        print(f"{name}: {rates[name] / rates['DataLoader']:.1f} x the DataLoader (goal {goal:g} x)")
    if device.type == "cuda":
        print(f"cache, varied: {rates['cache, varied']:.0f}/s (goal {GPU_GOAL}/s)")
    path = options.output or results.FOLDER / "data" / results.default_path(device).name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)
    if options.results is not None:
        results.Results(options.results, device).add(for_table(record, device))
        print(options.results)
    return 0


def for_table(record: dict, device: torch.device) -> dict:
    """The rates as a record of :class:`benchmarks.results.Results`."""
    rates = record["samples_per_s"]
    wait = record.get("wait_share_of_a_tiny_step")
    return {
        "op": "crops",
        "pass": "cache, varied",
        "shape": {"px": SIZE, "B": BATCH},
        "dtype": "float32",
        "device": device.type,
        "samples_s": rates["cache, varied"],
        "by_way": rates,
        "loader_cores": record["cores"],
        "wait_share": wait and wait["share"],
        **results.load_mark(),
    }


def core_count() -> int:
    import os

    return len(os.sched_getaffinity(0))


class Pictures(torch.utils.data.Dataset):
    """What a user writes: Pillow, a crop, ImageNet's mean and deviation."""

    def __init__(self, frames: list[tuple[Path, np.ndarray]]):
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, k: int) -> Tensor:
        from PIL import Image

        path, (x, y, side) = self.frames[k]
        left, top = x + 0.5 - side / 2, y + 0.5 - side / 2
        corners = [round(float(v)) for v in (left, top, left + side, top + side)]
        image = Image.open(path).convert("RGB").crop(corners).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        return (tensor - torch.tensor(IMAGE_MEAN).view(3, 1, 1)) / torch.tensor(IMAGE_STD).view(3, 1, 1)


def throughput(config: DataConfig, device: torch.device, count: int) -> dict[str, float]:
    """Normalised crops a second on the device, by way; medians over turns, the first epoch of each way left out."""
    cores = core_count()
    still = make_loader(config, "train", BATCH, augment=False, shuffle=False, device=device, progress=False)
    varied = make_loader(config, "train", BATCH, augment=True, shuffle=False, device=device, progress=False)
    rows = np.arange(min(count, len(still.dataset)))
    for loader in (still, varied):
        loader.windows = rows[:, None]
    frames = frames_of(config, still, rows)
    normalize = Normalize().to(device)
    plain = torch.utils.data.DataLoader(
        Pictures(frames), BATCH, num_workers=cores, persistent_workers=True, pin_memory=device.type == "cuda",
        multiprocessing_context="spawn",
    )  # fmt: skip
    with ThreadPoolExecutor(cores) as pool:
        ways = {
            "DataLoader": lambda: (batch.to(device, non_blocking=True) for batch in plain),
            "files": lambda: (normalize(batch.to(device)) for batch in from_files(frames, pool)),
            "cache": lambda: (normalize(batch.inputs.image) for batch in still),
            "cache, varied": lambda: (normalize(batch.inputs.image) for batch in varied),
        }
        check(ways)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, way in ways.items():
                rates[name].append(rate(way, len(rows), device))
    return {name: round(statistics.median(found), 1) for name, found in rates.items()}


def frames_of(config: DataConfig, loader: Loader, rows: np.ndarray) -> list[tuple[Path, np.ndarray]]:
    """Picture and box of cache rows."""
    reader = open_reader(config, "train")
    cache = loader.dataset.cache
    return [(reader[int(i)].image_path, box) for i, box in zip(cache["index"][rows], cache["box"][rows])]


def from_files(frames: list[tuple[Path, np.ndarray]], pool: ThreadPoolExecutor) -> Iterator[Tensor]:
    """Batches of crops, uint8 [B, 3, S, S], by what fills the crop cache; two batches of pictures are read ahead."""
    cv2.setNumThreads(1)
    warps = crop_camera(np.eye(3), np.stack([box for _, box in frames]).astype(np.float64), SIZE)[1].numpy()

    def one(frame: tuple[Path, np.ndarray]) -> np.ndarray:
        path, warp = frame
        return cut(read_image(path, rows=rows_needed(warp, SIZE))[0], warp, SIZE)

    crops = ahead(pool, 2 * BATCH, one, zip((path for path, _ in frames), warps))
    while batch := list(islice(crops, BATCH)):
        yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)  # normalize reads interleaved pixels


def check(ways: dict[str, Callable]) -> None:
    """Raises ValueError unless all ways show the same crops, as far as their interpolation allows."""
    first = {name: next(iter(ways[name]())).cpu() for name in ("DataLoader", "files", "cache")}
    for name, most in (("files", 0.15), ("cache", 0.15)):  # deviations of ImageNet; Pillow rounds boxes to whole px
        difference = (first[name] - first["DataLoader"]).abs().mean()
        if not difference < most:
            raise ValueError(f"{name}: crops differ from the DataLoader's by {difference:.3f} on average")


def rate(way: Callable[[], Iterator[Tensor]], count: int, device: torch.device) -> float:
    start = time.perf_counter()
    seen = sum(len(batch) for batch in way())
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if seen != count:
        raise ValueError(f"{seen} crops came, not {count}")
    return count / (time.perf_counter() - start)


def wait_share(config: DataConfig, device: torch.device, steps: int, batch: int) -> dict[str, float]:
    """The share of a training step of tiny in which nothing but data is waited for, and the step's time."""
    from amt.train.trainer import Trainer

    model = ModelConfig(size="tiny")
    data = DataConfig(root=config.root, split="s0", cache=config.cache, crop=CropConfig(size=model.crop_size))
    train = TrainConfig(batch_size=batch, device=device.type)
    trainer = Trainer(Config(model, data, train, KernelsConfig()))
    loader = make_loader(data, "train", train.batch_size, device=trainer.device, progress=False)
    waited, total, done = 0.0, 0.0, 0
    while done < steps + 2:
        batches = iter(loader)
        for _ in range(len(loader)):
            start = time.perf_counter()
            batch = next(batches)
            got = time.perf_counter()
            trainer.train_step(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if done >= 2:  # the first ones warm up
                waited, total = waited + got - start, total + time.perf_counter() - start
            done += 1
            if done == steps + 2:
                break
    return {"share": round(waited / total, 4), "goal": MOST_WAIT, "step_ms": round(1000 * total / steps, 1)}


def decoders(config: DataConfig, count: int = 64) -> dict[str, dict[str, float]]:
    """Milliseconds of one thread a 640 x 480 JPEG picture, by decoder and its version; the best of four passes.

    The time is the thread's own, so that another process on the machine does not count.
    """
    reader = open_reader(config, "train")
    data = [reader[k].image_path.read_bytes() for k in range(min(count, len(reader)))]
    cv2.setNumThreads(1)
    found = {}
    for name, way in decoder_ways().items():
        times = []
        for _ in range(4):
            start = time.thread_time()
            for d in data:
                way(d)
            times.append(time.thread_time() - start)
        found[name] = round(1000 * min(times) / len(data), 3)
    return found


def decoder_ways() -> dict[str, Callable[[bytes], np.ndarray]]:
    """The decoders that are installed, by name and version."""
    import PIL
    from PIL import Image

    def opencv(flag: int) -> Callable:
        return lambda d: cv2.imdecode(np.frombuffer(d, np.uint8), flag)

    def pillow(d: bytes, half: bool = False) -> np.ndarray:
        image = Image.open(io.BytesIO(d))
        if half:
            image.draft("RGB", (image.width // 2, image.height // 2))
        return np.asarray(image.convert("RGB"))

    def installed(package: str) -> bool:
        return importlib.util.find_spec(package) is not None

    one = f"OpenCV {cv2.__version__}"
    ways = {
        f"{one}, BGR": opencv(cv2.IMREAD_COLOR),
        f"{one}, RGB": opencv(cv2.IMREAD_COLOR_RGB),
        f"{one}, half size": opencv(cv2.IMREAD_REDUCED_COLOR_2),
        f"Pillow {PIL.__version__}": pillow,
        f"Pillow {PIL.__version__}, half size": lambda d: pillow(d, half=True),
    }
    if installed("simplejpeg"):
        import simplejpeg

        one = f"simplejpeg {simplejpeg.__version__}"
        ways[one] = simplejpeg.decode_jpeg
        ways[f"{one}, upper 288 rows (amt.data.jpeg)"] = lambda d: jpeg.decode(d, 288)
        ways[f"{one}, approximate"] = lambda d: simplejpeg.decode_jpeg(d, fastdct=True, fastupsample=True)
        ways[f"{one}, half size"] = lambda d: simplejpeg.decode_jpeg(d, min_height=240, min_width=320, min_factor=2)
    if installed("imagecodecs"):
        import imagecodecs

        ways[f"imagecodecs {imagecodecs.__version__}"] = imagecodecs.jpeg8_decode
    if installed("turbojpeg"):  # its wheel has no library in it
        import turbojpeg

        with contextlib.suppress(RuntimeError):
            ways[f"PyTurboJPEG {importlib.metadata.version('PyTurboJPEG')}"] = turbojpeg.TurboJPEG().decode
    return ways


if __name__ == "__main__":
    sys.exit(main())
