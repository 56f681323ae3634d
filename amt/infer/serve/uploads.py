"""What is taken from a browser: kinds by content, sizes before anything is decoded, one folder an upload.

A file's name is a word for the results. It never becomes a path, and it does not tell what the file holds.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from amt.data.images import stored_size
from amt.errors import UserError

PICTURE, CLIP = "picture", "clip"
HEAD = 512  # bytes that tell the kind
ENDINGS = {PICTURE: "picture", CLIP: "clip"}  # names without digits: OpenCV takes digits for a series of files
MOST_SCANS, MOST_PAGES = 100, 100  # of a JPEG and of a TIFF file: each costs time, and takes only a few bytes
_JPEG, _TIFF = b"\xff\xd8\xff", (b"II*\0", b"MM\0*")
_ISO_STILLS = (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


@dataclass(frozen=True)
class Limits:
    """What one upload, and all together, may take."""

    picture_bytes: int = 32 << 20
    clip_bytes: int = 256 << 20
    picture_pixels: int = 50_000_000  # decoded, three bytes each
    clip_pixels: int = 4096 * 2304  # of a frame
    frames: int = 900  # of a clip
    at_once: int = 16  # uploads that are received, wait or are worked on
    patience_s: float = 30.0  # without a byte of an upload, or with an answer that nobody takes


class Refused(UserError):
    """An upload that is not taken; the message is one line.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status = status


@dataclass(frozen=True)
class Upload:
    """A file that was received whole, and whose header was looked at."""

    path: Path
    name: str  # what it is called in results
    kind: str  # PICTURE or CLIP
    pixels: int = 0  # of a picture, by its header


def shown_name(given: str | None, kind: str) -> str:
    """The last part of a file's name, of letters, digits and ``._-`` alone, at most 80 of them."""
    last = re.split(r"[/\\]", given or "")[-1]
    return re.sub(r"[^\w.-]+", "_", last, flags=re.ASCII).strip("._")[:80] or kind


def kind_of(head: bytes) -> str:
    """What a file holds, by its first bytes: PICTURE or CLIP.

    Playlists and other texts, which can name further files, are neither.

    Raises:
        Refused: neither a picture nor a clip of a known format.
    """
    if head.startswith((_JPEG, b"\x89PNG\r\n\x1a\n", *_TIFF)):
        return PICTURE
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return PICTURE
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"AVI "):
        return PICTURE if head[8:12] == b"WEBP" else CLIP
    if head[4:8] == b"ftyp" and head[8:12] in _ISO_STILLS:
        raise Refused(415, "HEIC and AVIF pictures are not read; export the picture as JPEG or PNG")
    if head[4:8] in _ISO_BOXES or head.startswith((b"\x1a\x45\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3")):
        return CLIP
    raise Refused(
        415,
        "neither a picture (JPEG, PNG, WebP, BMP, TIFF) nor a clip (MP4, MOV, WebM, MKV, AVI, MPEG) by content",
    )


def check_length(given: str | None, limits: Limits) -> int:
    """The bytes that a request announces. Raises Refused where it announces none, or too many."""
    if given is None or not re.fullmatch(r"\d{1,15}", given):
        raise Refused(411, "the request does not say how long it is; send the file as the body, with Content-Length")
    if int(given) == 0:
        raise Refused(400, "the file is empty; choose another one")
    if int(given) > limits.clip_bytes:
        raise Refused(413, _too_large("clip", limits.clip_bytes))
    return int(given)


async def receive(body: AsyncIterator[bytes], length: int, folder: Path, name: str | None, limits: Limits) -> Upload:
    """Writes a body of ``length`` bytes into ``folder`` and looks at its header.

    Raises:
        Refused: another kind, too large, damaged in its header, or not a byte for ``limits.patience_s``.
    """
    path, head, written = folder / "upload", b"", 0
    kind = None
    with open(path, "wb") as file:
        chunks = aiter(body)
        while True:
            try:
                chunk = await asyncio.wait_for(anext(chunks), limits.patience_s)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise Refused(408, f"no byte came for {limits.patience_s:g} s; send the file again") from None
            written += len(chunk)
            file.write(chunk)
            if kind is None:
                head += chunk
                if len(head) >= min(HEAD, length):
                    kind = kind_of(head)
                    most = limits.picture_bytes if kind == PICTURE else limits.clip_bytes
                    if length > most:
                        raise Refused(413, _too_large(kind, most))
    if written != length or kind is None:
        raise Refused(400, f"{written} of {length} bytes came; send the file again")
    path = path.rename(folder / ENDINGS[kind])
    shown = shown_name(name, kind)
    return Upload(path, shown, kind, _pixels(path, limits) if kind == PICTURE else 0)


def _pixels(path: Path, limits: Limits) -> int:
    """Pixels of a picture as its header says. Raises Refused for too many, and where the header says nothing."""
    data = path.read_bytes()
    if data.startswith(_JPEG) and data.count(b"\xff\xda") > MOST_SCANS:
        raise Refused(400, f"the JPEG file has more than {MOST_SCANS} scans; export it again")
    if data.startswith(_TIFF) and _many_pages(data):
        raise Refused(400, f"the TIFF file holds more than {MOST_PAGES} pictures; export one of them")
    size = header_size(data)
    if size is None or min(size) < 1:
        raise Refused(400, "the picture's header is damaged; export it again")
    if size[0] * size[1] > limits.picture_pixels:
        raise Refused(
            413,
            f"the picture has {size[1]} x {size[0]} px; at most {limits.picture_pixels // 10**6} megapixels are taken, make it "
            "smaller",
        )
    return size[0] * size[1]


def _many_pages(data: bytes) -> bool:
    """Whether a TIFF file's directories, each of which names the next, are more than may be, or run in a circle."""
    order = "little" if data.startswith(b"II") else "big"
    at = int.from_bytes(data[4:8], order)
    for _ in range(MOST_PAGES):
        count = int.from_bytes(data[at : at + 2], order)
        at = int.from_bytes(data[at + 2 + 12 * count : at + 6 + 12 * count], order)
        if at == 0:  # the last one, or one that lies behind the file's end
            return False
    return True


def header_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a picture by its header; None where no reader finds one. Nothing is decoded."""
    if data.startswith((_JPEG, b"\x89PNG")):
        return stored_size(data)
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.height, picture.width
    except Image.DecompressionBombError:
        return 1 << 20, 1 << 20
    except Exception:  # what a damaged file holds can raise almost anything
        return None


def _too_large(kind: str, most: int) -> str:
    return f"the file is too large; a {kind} may have {most >> 20} MiB"
