"""A thousand broken uploads over loopback: each gets an answer or one line, memory stays flat, and nothing is left behind."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from infer_files import write_video

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from served import Stub, served

from amt.infer.predictor import load

KINDS = (".jpg", ".png", ".webp", ".bmp", ".tiff")
WORDS = (
    "",
    "left",
    "up",
    "006_mustard_bottle",
    "../../etc/passwd",
    "box:0.1x0.1x0.1",
    "1e400",
    "nan,1,2,3",
    "30,30,16,12",
    "\0",
)
NAMES = ("name", "side", "object", "intrinsics", "fov", "box", "stream", "other")
GROWTH = 60 << 20  # bytes that 700 uploads may add to what the first 300 took


@pytest.fixture(scope="module")
def seeds(photo, tmp_path_factory) -> list[bytes]:
    """Small whole files of every kind."""
    small = cv2.resize(photo, (40, 32))
    pictures = [cv2.imencode(kind, small[..., ::-1])[1].tobytes() for kind in KINDS]
    folder = tmp_path_factory.mktemp("clips")
    clip = write_video(folder / "v.mp4", [cv2.resize(photo, (64, 48))] * 2).read_bytes()
    return [*pictures, clip]


def broken(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A file in which a few things are wrong; one in ten is whole."""
    clips = 0.015  # each costs a process
    data = bytearray(seeds[-1] if rng.random() < clips else rng.choice(seeds[:-1]))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5, 8, 20, 50))):
        what, at = rng.randrange(6), rng.randrange(max(1, len(data)))
        if what == 0 and data:
            data[at] = rng.randrange(256)
        elif what == 1 and data:
            data[rng.randrange(min(64, len(data)))] = rng.choice((0, 1, 127, 128, 255))
        elif what == 2:
            del data[at:]
        elif what == 3:
            del data[at : at + rng.randrange(1, 40)]
        elif what == 4:
            data[at:at] = rng.randbytes(rng.randrange(1, 40))
        else:
            data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
    return bytes(data)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def upload(asking, rng: random.Random, seeds: list[bytes], **fields: str) -> int:
    if rng.random() < 0.2:
        fields[rng.choice(NAMES)] = rng.choice(WORDS)
    status, answer = asking.post(broken(rng, seeds), **fields)
    if isinstance(answer, list):  # a clip: its lines
        answer = answer[-1]
    if status == 200:
        assert "error" in answer or "hands" in answer or answer["kind"] == "end"
    else:
        assert status in (400, 413, 415), answer
        assert set(answer) == {"error"}
    text = answer.get("error", "")
    assert "\n" not in text
    assert str(asking.root) not in text
    assert len(text) < 400
    return status


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_thousand_broken_uploads_are_answered_and_memory_stays_flat(result, seeds, tmp_path, capfd):
    rng, statuses = random.Random(7), []
    with served(Stub(result), tmp_path / "root") as asking:
        for k in range(1000):
            statuses.append(upload(asking, rng, seeds))
            if k == 300:
                before = resident()
        asking.settle()
        grown = resident() - before
        assert asking.post(seeds[0])[0] == 200
        assert len(list(asking.root.glob("result-*"))) <= asking.page.results.most
    assert "Traceback" not in capfd.readouterr().err
    assert statuses.count(200) > 50
    assert statuses.count(400) > 100
    assert statuses.count(415) > 20
    with capfd.disabled():
        print(f"{Counter(statuses)}, {grown / 2**20:.1f} MiB more")
    assert grown < GROWTH, f"{grown / 2**20:.0f} MiB"


def test_the_model_itself_answers_broken_uploads(checkpoint, seeds, tmp_path):
    rng = random.Random(11)
    with served(
        load(checkpoint, device="cpu", locator="window"), tmp_path / "root", box=np.array([20.0, 16, 24])
    ) as asking:
        statuses = [upload(asking, rng, seeds) for _ in range(30)]
        asking.settle()
    assert {200, 400} <= set(statuses)
