"""Reads arrays and plain values out of a pickle without running what it holds: a pickle is a program for a small machine.

Three things are restricted: the names that the program may ask for; what stands for an array, which is an inert shell here
until its parts are checked; and the size of the memory that it may claim.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from typing import Any

import numpy as np

_PLAIN = {"set", "frozenset", "complex"}


class Refused(pickle.UnpicklingError):
    """A pickle asks for a class or function that is not on the list."""


class Shell:
    """Stands in for an object of a class that is never imported: holds what was stored in it, does nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        if isinstance(state, dict):
            self.stored = state


class ArrayShell(Shell):
    """Stands in for an ndarray; :meth:`array` gives it. NumPy's own constructors trust the parts that a pickle gives them."""

    value: np.ndarray | None = None  # None: an array of objects, or no array

    def __setstate__(self, state):
        shape, dtype, fortran, data = state[-4:]
        if isinstance(dtype, _Dtype) and dtype.value is not None:
            self.value = _from_bytes(data, dtype.value, shape, "F" if fortran else "C")

    def array(self, name: str) -> np.ndarray:
        """The array. Raises ValueError."""
        if self.value is None:
            raise ValueError(f"{name}: an array of objects, or an unfinished one")
        return self.value


class _Dtype(Shell):
    """Stands in for a dtype."""

    def __init__(self, text: str = "", *flags):
        plain = isinstance(text, str) and re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|16)|c(8|16)|[SU]\d{1,4})", text)
        self.value = np.dtype(text) if plain else None

    def __setstate__(self, state):
        if self.value is not None and state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


def _from_bytes(data: bytes | str, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    data = data.encode("latin1") if isinstance(data, str) else bytes(data)
    if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array {shape} of {dtype} with {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order=order).copy()


def _reconstruct(cls: type, *_) -> ArrayShell:
    """What NumPy's function of that name makes, empty, before the state is set."""
    if cls is not ArrayShell:
        raise Refused(f"refused: it would rebuild {cls!r}, which is not an array")
    return ArrayShell()


def _frombuffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> ArrayShell:
    shell = ArrayShell()
    shell.__setstate__((shape, dtype, order == "F", data))
    return shell


def _scalar(dtype: _Dtype, data: bytes | str = b"") -> Any:
    if not isinstance(dtype, _Dtype) or dtype.value is None:
        raise Refused("refused: it asks for a scalar that is no number")
    return _from_bytes(data, dtype.value, (), "C")[()]


_NUMPY = {"multiarray._reconstruct": _reconstruct, "multiarray.scalar": _scalar, "numeric._frombuffer": _frombuffer}


class ArrayUnpickler(pickle.Unpickler):
    """Admits arrays, as shells, and a few plain types; refuses every other name. Subclasses admit more."""

    kind = "This file"  # what is read, for messages

    def find_class(self, module: str, name: str) -> Any:
        if module == "numpy" and name in ("ndarray", "dtype"):
            return ArrayShell if name == "ndarray" else _Dtype
        if module.partition(".")[0] == "numpy" and f"{module.rpartition('.')[2]}.{name}" in _NUMPY:
            return _NUMPY[f"{module.rpartition('.')[2]}.{name}"]
        if module in ("__builtin__", "builtins") and name in _PLAIN:
            return super().find_class("builtins", name)
        if module in ("__builtin__", "builtins") and name == "bytearray":
            return _bytearray
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        raise Refused(f"refused: it asks for {module}.{name}; {self.kind} needs arrays only. Do not trust this file.")


def unpickle(data: bytes, unpickler: type[ArrayUnpickler] = ArrayUnpickler) -> Any:
    """What a pickle of Python 2 or 3 holds; each array in it is an :class:`ArrayShell`.

    Args:
        unpickler: says which names may be asked for.

    Raises:
        ValueError: it is damaged, or asks for what it must not.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            # The C unpickler clears its memo up to the largest number that is put: one flipped bit can ask for 64 GB.
            if opcode.name in ("PUT", "LONG_BINPUT") and argument > len(data):
                raise Refused(f"refused: it numbers {argument} objects, and has {len(data)} bytes")
        return unpickler(io.BytesIO(data), encoding="latin1").load()
    except Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a damaged pickle can raise almost anything
        raise ValueError(f"not a readable pickle ({type(error).__name__}: {' '.join(str(error).split())})") from error


def _bytearray(content: bytes | str = b"", encoding: str = "latin1") -> bytearray:
    """A bytearray of what is in the file; a number would ask for so many bytes that are not."""
    if not isinstance(content, bytes | str):
        raise Refused(f"refused: it asks for a bytearray of {type(content).__name__}")
    return bytearray(content if isinstance(content, bytes) else _encode_latin1(content, encoding))


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 stores bytes in old pickle protocols; no other codec is looked up."""
    if encoding != "latin1":
        raise Refused(f"refused: it asks for the codec {encoding!r}")
    return text.encode("latin1")
