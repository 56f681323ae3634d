"""Reads a user's own MANO file without running what it holds.

MANO_RIGHT.pkl and MANO_LEFT.pkl are Python 2 pickles, and a pickle is a program. This reader admits arrays. Objects of
chumpy and scipy.sparse become inert shells, from which it takes the numbers. Anything else is refused. Neither chumpy nor
scipy is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from amt.hand.array_pickle import ArrayUnpickler, Refused, Shell, unpickle
from amt.hand.mano import NUM_BETAS, HandModel

_ARRAYS = (
    "v_template",
    "shapedirs",
    "posedirs",
    "J_regressor",
    "weights",
    "kintree_table",
    "f",
    "hands_components",
    "hands_mean",
)
NUM_VERTICES = 778
# DexYCB's tips, thumb first. Other libraries take 744, 320, 443, 554, 671, which moves all five.
TIP_VERTICES = {"right": (745, 317, 444, 556, 673), "left": (745, 317, 445, 556, 673)}
# A direction out of the back of each finger of the right hand at rest, which MANO's files do not tell.
BACKS = ((0.45, 0.62, 0.64), *[(0.0, 1.0, 0.0)] * 4)
_MOST_ENTRIES = 1_000_000  # of a sparse matrix made dense (8 MB); J_regressor has 16 x 778


def load_mano(path: str | Path, side: str | None = None) -> HandModel:
    """The hand in a MANO pickle, or in an .npz with the same names.

    Args:
        path: MANO_RIGHT.pkl or MANO_LEFT.pkl from https://mano.is.tue.mpg.de, or an .npz of its arrays.
        side: "right" or "left"; read off the file's name where it is not given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a MANO model, would run code, or its name does not say its side. Names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such MANO file; get it from https://mano.is.tue.mpg.de")
    if side is None:
        named = [side for side in ("right", "left") if side in path.name.lower()]
        if len(named) != 1:
            raise ValueError(f"{path}: the name does not say the side; pass side='right' or side='left'")
        side = named[0]
    try:
        contents = _read_npz(path) if path.suffix == ".npz" else _read_pickle(path)
        missing = [name for name in _ARRAYS if name not in contents]
        if missing:
            raise ValueError(f"not a MANO model: no {', '.join(missing)}")
        arrays = {name: _as_array(contents[name], name) for name in _ARRAYS}
        arrays["kintree_table"] = arrays["kintree_table"].astype(np.int64)
        arrays["f"] = arrays["f"].astype(np.int64)
        arrays["shapedirs"] = arrays["shapedirs"][..., :NUM_BETAS]
        if len(arrays["v_template"]) != NUM_VERTICES:
            raise ValueError(f"v_template: MANO has {NUM_VERTICES} vertices, got {len(arrays['v_template'])}")
        arrays["tip_vertices"] = np.array(TIP_VERTICES[side])
        arrays["backs"] = np.array(BACKS) * (1.0 if side == "right" else -1.0, 1.0, 1.0)
        arrays["nails"] = np.zeros(len(arrays["f"]), bool)
        return HandModel(**arrays, side=side)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # what a damaged file holds can raise almost anything
        raise ValueError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_pickle(path: Path) -> dict[str, Any]:
    contents = unpickle(path.read_bytes(), _ManoUnpickler)
    if not isinstance(contents, dict):
        raise ValueError(f"not a MANO model: it holds a {type(contents).__name__}, not a dictionary")
    return contents


class _Chumpy(Shell):
    def array(self, name: str) -> np.ndarray:
        stored = getattr(self, "stored", {})
        if "x" in stored:  # chumpy.Ch: the value itself
            return _as_array(stored["x"], name)
        if "a" in stored and "idxs" in stored:  # chumpy.reordering.Select: a[idxs]
            picked = _as_array(stored["a"], name).ravel()[_as_array(stored["idxs"], name)]
            return picked.reshape(stored.get("preferred_shape", picked.shape))
        raise ValueError(f"{name}: a chumpy expression without a value (stored: {sorted(stored)})")


class _Sparse(Shell):
    by_column = True

    def array(self, name: str) -> np.ndarray:
        stored = getattr(self, "stored", {})
        shape = stored.get("_shape", stored.get("shape"))
        if shape is None or not {"data", "indices", "indptr"} <= stored.keys():
            raise ValueError(f"{name}: a sparse matrix without its data (stored: {sorted(stored)})")
        rows, columns = (int(n) for n in shape)
        if rows < 0 or columns < 0 or rows * columns > _MOST_ENTRIES:
            raise ValueError(f"{name}: a sparse matrix of {rows} x {columns}; at most {_MOST_ENTRIES} entries are read")
        length, width = (columns, rows) if self.by_column else (rows, columns)
        counts = np.diff(_as_array(stored["indptr"], name))
        minor, data = _as_array(stored["indices"], name), _as_array(stored["data"], name)
        if counts.shape != (length,) or (counts < 0).any() or not counts.sum() == len(minor) == len(data):
            raise ValueError(f"{name}: a sparse matrix whose parts do not fit each other")
        if len(minor) and not 0 <= minor.min() <= minor.max() < width:
            raise ValueError(f"{name}: a sparse matrix with an entry outside its shape")
        major = np.repeat(np.arange(length), counts)
        dense = np.zeros((rows, columns))
        np.add.at(dense, (minor, major) if self.by_column else (major, minor), data)
        return dense


class _SparseRows(_Sparse):
    by_column = False


def _rebuild(cls, base, state):
    """copyreg's own reconstructor, for the shells alone."""
    if not (isinstance(cls, type) and issubclass(cls, Shell)):
        raise Refused(f"refused: it would rebuild {cls!r}, which is not an array")
    return cls()


class _ManoUnpickler(ArrayUnpickler):
    """Admits shells for objects of chumpy and scipy.sparse, too."""

    kind = "a MANO file"

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "chumpy":
            return _Chumpy
        if module.startswith("scipy.sparse") and name in ("csc_matrix", "csc_array"):
            return _Sparse
        if module.startswith("scipy.sparse") and name in ("csr_matrix", "csr_array"):
            return _SparseRows
        if module in ("copy_reg", "copyreg") and name == "_reconstructor":
            return _rebuild
        if module in ("__builtin__", "builtins") and name == "object":
            return object
        return super().find_class(module, name)


def _as_array(value: Any, name: str) -> np.ndarray:
    value = value.array(name) if isinstance(value, Shell) and hasattr(value, "array") else value
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected an array of numbers, got {type(value).__name__} of {array.dtype}")
    return array
