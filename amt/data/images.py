"""The one reader of pictures. It decodes what is whole, refuses what is cut short, and says what it had to choose.

OpenCV decodes; it fills the rest of a file that is cut short with grey, or takes it for black, so the file's end is checked
here first. Pillow counts the pictures of an animation.
"""

from __future__ import annotations

import io
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from amt.data import jpeg
from amt.data.errors import ImageError
from amt.data.files import read_ends, read_file

FORMATS = "jpg, png, bmp, webp, tif, gif or ppm"
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras store in samples of 16 bits
MOST_BYTES = 1 << 30  # of a file
TOO_LARGE = (
    1 << 20,
    1 << 20,
)  # px: stands for a size that Pillow does not tell, because it is beyond its 178 megapixels
_PNG = b"\x89PNG\r\n\x1a\n"


def read_image(
    path: str | os.PathLike, check: Callable[[tuple[int, int]], None] | None = None, rows: int | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads a picture from a file.

    - EXIF's orientation is applied.
    - Grey becomes three equal channels; an alpha channel is dropped.
    - Samples of 16 bits are shifted to 8 by the depth that they really use: the smallest of 8, 10, 12, 14 and 16 bits
      that holds the largest sample.
    - Of an animation, or of a file with several pages, the first picture is taken.
    - A JPEG file that lacks only its end marker is read; one that lacks more is refused, also where a whole scan is missing.

    Args:
        check: called with the (height, width) that the header says, before the picture is decoded.
        rows: the upper rows that are wanted; those below may be black where that saves time. None: all.

    Returns:
        The picture, uint8 [H, W, 3], RGB, and notes: one short sentence for each choice that changes what is seen.

    Raises:
        ImageError: the file is missing, empty, cut short or not a picture.
    """
    path = Path(path)
    data, notes = _read(path), []
    size = stored_size(data)
    if check is not None and (said := size or _other_size(data)) is not None:
        check(said)
    if data.startswith(jpeg.START) and not jpeg.has_end(data):
        data = jpeg.with_end(data, path)
        notes.append("the JPEG file lacks its end marker; all of the picture is there")
    elif data.startswith(jpeg.START) and not jpeg.has_all_scans(data):
        raise ImageError(path, jpeg.BREAKS_OFF, "copy or export it again")
    if data.startswith(_PNG) and not _png_ends(data):
        raise ImageError(path, jpeg.BREAKS_OFF, "copy or export it again")
    image = _decode(data, rows)
    if image is None:
        raise ImageError(path, "is not an image that can be decoded", f"give a whole {FORMATS} file")
    if image.dtype == np.uint16:
        image, depth = _to_8_bits(image)
        if depth < 16:
            notes.append(f"samples of 16 bits use only {depth}; they are scaled from {depth} bits to 8")
    elif image.dtype != np.uint8:
        raise ImageError(path, f"holds {image.dtype} samples", "export it with 8 or 16 bits a channel")
    count = _count(data)
    if count > 1:
        notes.append(f"the file holds {count} pictures; the first is taken")
    if _is_grey(image):
        notes.append("the picture is grey; colour pictures give better results")
    return image, tuple(notes)


def read_depth(path: str | os.PathLike, check: Callable[[tuple[int, int]], None] | None = None) -> np.ndarray:
    """uint16 [H, W]: the samples of a grey PNG of 16 bits, whose checksums must be right.

    Args:
        check: called with the (height, width) that the header says, before the picture is decoded.

    Raises:
        ImageError: the file is missing, damaged or another kind of picture.
    """
    import cv2

    path = Path(path)
    data = _read(path)
    if not _png_is_whole(data):
        raise ImageError(path, "is not a whole PNG", "copy it again")
    if check is not None:
        check(stored_size(data))
    with quiet():
        try:
            samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            samples = None
    if samples is None or samples.dtype != np.uint16 or samples.ndim != 2:
        raise ImageError(path, "is not a grey PNG of 16 bits", "put the original file back")
    return samples


def glance(path: str | os.PathLike, check: Callable[[tuple[int, int]], None]) -> None:
    """Looks at the format, the size and the end of a JPEG or PNG file; reads a few kilobytes and decodes nothing.

    Args:
        check: called with the (height, width) that the header says.

    Raises:
        ImageError: the file is missing, of another format, or cut short.
    """
    path = Path(path)
    head, tail = _read(path, ends=True)
    if not head.startswith((_PNG, jpeg.START)):
        raise ImageError(path, "is not a JPEG or PNG file", "put the original file back")
    size = stored_size(head) or stored_size(_read(path))
    if size is None:
        raise ImageError(path, "its header is damaged", "copy it again")
    check(size)
    if not (tail[-8:-4] == b"IEND" if head.startswith(_PNG) else jpeg.END in tail):
        raise ImageError(path, jpeg.BREAKS_OFF, "copy or export it again")


def stored_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) as the header of a JPEG or PNG file says; None for another format or a header that is cut short."""
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    return jpeg.read_header(data).size if data.startswith(jpeg.START) else None


class quiet:
    """Context in which OpenCV prints nothing: what goes wrong is told in our own line. Threads may overlap."""

    _lock, _depth, _level = threading.Lock(), 0, 0

    def __enter__(self):
        import cv2

        with quiet._lock:
            if not quiet._depth:
                quiet._level = cv2.utils.logging.getLogLevel()
                cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            quiet._depth += 1

    def __exit__(self, *_):
        import cv2

        with quiet._lock:
            quiet._depth -= 1
            if not quiet._depth:
                cv2.utils.logging.setLogLevel(quiet._level)


def _read(path: Path, ends: bool = False):
    """The bytes of a file that is not empty; or only its (first, last) bytes. Raises ImageError."""
    try:
        data = read_ends(path) if ends else read_file(path, MOST_BYTES)
    except FileNotFoundError:
        raise ImageError(path, "no such file", "check the path") from None
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror})", "check the path and its permissions") from None
    if data in (b"", (b"", b"")):
        raise ImageError(path, "the file is empty", "copy or export it again")
    return data


def _decode(data: bytes, rows: int | None) -> np.ndarray | None:
    """uint8, uint16 or float32 [H, W, 3], RGB."""
    import cv2

    is_jpeg = data.startswith(jpeg.START)
    if is_jpeg and (image := jpeg.decode(data, rows)) is not None:
        return image

    # IMREAD_COLOR alone keeps the upper 8 of 16 bits: a picture of 10 bits would be black. IMREAD_COLOR_RGB spares a JPEG file a
    # pass over its pixels; OpenCV's reader of TIFF does not heed it.
    flags = (cv2.IMREAD_COLOR_RGB if is_jpeg else cv2.IMREAD_COLOR) | cv2.IMREAD_ANYDEPTH
    with quiet():
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            return None
    return image if is_jpeg or image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _to_8_bits(image: np.ndarray) -> tuple[np.ndarray, int]:
    """uint8 picture of a uint16 one, and the depth in bits that was assumed."""
    depth = next(bits for bits in DEPTHS if int(image.max()) < 1 << bits)
    return (image >> (depth - 8)).astype(np.uint8), depth


def _is_grey(image: np.ndarray) -> bool:
    def equal(part: np.ndarray) -> bool:
        return bool((part == part[..., :1]).all())

    return equal(image[::16, ::16]) and equal(image)  # a few pixels tell a coloured picture, which is the usual case


def _other_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) as the header of a file of another format than JPEG and PNG says; None where Pillow knows none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.height, picture.width
    except Image.DecompressionBombError:
        return TOO_LARGE
    except Exception:  # what a damaged file holds can raise almost anything
        return None


def _count(data: bytes) -> int:
    """Pictures in the file."""
    animated = data[:4] == b"RIFF" and b"ANIM" in data[:64]
    if not (animated or data[:3] == b"GIF" or data[:4] in (b"II*\0", b"MM\0*") or _png_is_animated(data)):
        return 1
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return getattr(picture, "n_frames", 1)
    except Exception:  # what a damaged file holds can raise almost anything
        return 1  # OpenCV could decode it, which is what counts


def _png_chunks(data: bytes):
    """(name, end) of a PNG file's chunks, as far as the file goes."""
    at = len(_PNG)
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], end
        at = end


def _png_ends(data: bytes) -> bool:
    return any(name == b"IEND" and end <= len(data) for name, end in _png_chunks(data))


def _png_is_whole(data: bytes) -> bool:
    """Whether every chunk up to the end is there with its checksum."""
    if not data.startswith(_PNG):
        return False
    at = len(_PNG)
    for name, end in _png_chunks(data):
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return False
        if name == b"IEND":
            return stored_size(data) is not None
        at = end
    return False


def _png_is_animated(data: bytes) -> bool:
    if not data.startswith(_PNG):
        return False
    for name, _ in _png_chunks(data):  # what announces an animation stands before the first picture
        if name in (b"acTL", b"IDAT"):
            return name == b"acTL"
    return False
