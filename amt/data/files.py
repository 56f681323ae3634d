"""Reads the small files of a set; each fault is one line that names the file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from amt.data.errors import BrokenFrame, FileError


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file (UTF-8, or UTF-16 with its mark). Raises FileError."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_bytes(), loader)
    except OSError as error:
        raise FileError(path, str(error.strerror), "put the set's file back") from error
    except UnicodeDecodeError as error:
        raise FileError(path, "is not UTF-8 text", "save it as UTF-8") from error
    except yaml.reader.ReaderError as error:
        raise FileError(path, "is not UTF-8 text", "save it as UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FileError(path, f"is not YAML ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise FileError(path, "is empty or no mapping")
    return content


def load_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name. Raises BrokenFrame."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except FileNotFoundError as error:
        raise BrokenFrame(path, "is missing") from error
    except KeyError as error:
        raise BrokenFrame(path, f"lacks a field of {', '.join(names)}") from error
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BrokenFrame(path, "is cut short or no .npz file") from error


def numbers(path: Path, found: object, count: int, what: str) -> np.ndarray:
    """float64 [count] of a YAML list."""
    try:
        numbers = np.array(found, np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise FileError(path, f"lacks {what}", "put the set's calibration back")
    return numbers
