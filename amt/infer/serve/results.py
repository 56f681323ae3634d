"""Results that can be downloaded for a while: the newest few, each in a folder of its own under a name that cannot be guessed."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections import OrderedDict
from pathlib import Path

KINDS = {
    ".jsonl": "application/x-ndjson",
    ".csv": "text/csv; charset=utf-8",
    ".npz": "application/octet-stream",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".mp4": "video/mp4",
}


class Results:
    """Folders of results under ``root``; the oldest go where there are too many, or too many bytes. For any thread.

    Args:
        most: results that are kept.
        most_bytes: of all of them; the newest stays in any case.
    """

    def __init__(self, root: Path, most: int = 64, most_bytes: int = 2 << 30):
        self.root, self.most, self.most_bytes = root, most, most_bytes
        self._files: OrderedDict[str, dict[str, Path]] = OrderedDict()
        self._bytes: dict[str, int] = {}
        self._lock = threading.Lock()

    def folder(self) -> tuple[str, Path]:
        """A new result's key and its folder; nothing can be downloaded before :meth:`publish`."""
        key = secrets.token_urlsafe(16)
        return key, self.root / f"result-{key}"

    def publish(self, key: str, files: list[Path]) -> list[str]:
        """Lets files of the result's folder be downloaded; their names."""
        named = {path.name: path for path in files if path.suffix in KINDS}
        with self._lock:
            self._files[key] = named
            self._bytes[key] = sum(path.stat().st_size for path in files)
            while len(self._files) > self.most or (
                len(self._files) > 1 and sum(self._bytes.values()) > self.most_bytes
            ):
                old, _ = self._files.popitem(last=False)
                del self._bytes[old]
                self.drop(old)
        return list(named)

    def find(self, key: str, name: str) -> Path | None:
        """A file that was published under exactly these words; None for any others."""
        with self._lock:
            return self._files.get(key, {}).get(name)

    def drop(self, key: str) -> None:
        """Removes a result's folder."""
        shutil.rmtree(self.root / f"result-{key}", ignore_errors=True)
