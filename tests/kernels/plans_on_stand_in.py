"""What Triton's own launcher launches for a call, and what the call's plan launches, both into a stand-in for CUDA's driver.

`python plans_on_stand_in.py FOLDER [case ...]`, where FOLDER holds libcuda.so.1, built from cuda_driver_stand_in.c. It prints a
line for each call and ends with status 1 at the first difference. A process of its own: Triton's driver is replaced.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(sys.argv[1])
os.environ |= {"TRITON_CACHE_DIR": str(FOLDER / "triton"), "TRITON_LIBCUDA_PATH": str(FOLDER)}
LIBRARY = str(FOLDER / "libcuda.so.1")
stand_in = ctypes.CDLL(LIBRARY, ctypes.RTLD_GLOBAL)  # Triton's own library finds it by its name

import torch  # noqa: E402
import triton  # noqa: E402
from plans_cases import CASES  # noqa: E402
from triton.backends.nvidia.driver import CudaDriver  # noqa: E402

from amt.kernels import _plans, _triton, aot, aot_shapes  # noqa: E402
from amt.kernels._cubins import Cubins  # noqa: E402

CPU = torch.device("cpu")  # where the tensors are: nothing reads them


class Function(ctypes.Structure):
    _fields_ = [("image", ctypes.c_void_p), ("image_size", ctypes.c_size_t), ("allowed_bytes", ctypes.c_int)]


class Launch(ctypes.Structure):
    _fields_ = [
        ("function", ctypes.POINTER(Function)),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("num_bytes", ctypes.c_size_t),
        ("bytes", ctypes.c_ubyte * 4096),
    ]


@ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_int),
    ctypes.POINTER(ctypes.c_int),
)
def layout(image, size, name, offsets, sizes) -> int:
    found = aot.parameters(ctypes.string_at(image, size), name.decode())
    for i, (offset, width) in enumerate(found):
        offsets[i], sizes[i] = offset, width
    return len(found)


ctypes.c_void_p.in_dll(stand_in, "stand_in_layout").value = ctypes.cast(layout, ctypes.c_void_p).value
count = ctypes.c_int.in_dll(stand_in, "stand_in_count")
launches = (Launch * 512).in_dll(stand_in, "stand_in_launches")


class Driver(CudaDriver):
    def __init__(self) -> None:
        super().__init__()
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0
        self.get_device_capability = lambda device: (9, 0)


triton.runtime.driver.set_active(Driver())


class Storages:
    """The storages that Triton's launches were given: an address is told as one of them and a distance."""

    def __init__(self) -> None:
        self.ranges: dict[int, int] = {}
        self.kept: list[torch.Tensor] = []
        self.plain = _triton.Launcher.__call__

    def __enter__(self) -> Storages:
        def launch(launcher, kernel, grid, /, *positional, **named):
            for value in (*positional, *named.values()):
                for tensor in value if isinstance(value, tuple) else (value,):
                    if isinstance(tensor, torch.Tensor):
                        storage = tensor.untyped_storage()
                        self.ranges[storage.data_ptr()] = storage.nbytes()
                        self.kept.append(tensor)  # else its memory may be another tensor's next
            return self.plain(launcher, kernel, grid, *positional, **named)

        _triton.Launcher.__call__ = launch
        return self

    def __exit__(self, *error) -> None:
        _triton.Launcher.__call__ = self.plain

    def place(self, address: int) -> tuple[int, int] | None:
        for base, size in self.ranges.items():
            if base <= address < base + max(size, 1):
                return base, address - base
        return None


def run(call: Callable) -> tuple[object, list[Launch]]:
    before = count.value
    results = call()
    return results, [Launch.from_buffer_copy(launches[i]) for i in range(before, count.value)]


def check(said: str, call: Callable) -> None:
    with Storages() as storages:
        call()  # compiles
        expected, by_triton = run(call)
    results, by_plan = run(call)
    assert not _plans._refusals, _plans._refusals
    assert by_triton, "nothing was launched"
    assert len(by_plan) == len(by_triton), (len(by_plan), len(by_triton))
    moved: dict[int, int] = {}  # where Triton's storages are in the plan's run
    for one, other in zip(by_triton, by_plan):
        images = [ctypes.string_at(x.function[0].image, x.function[0].image_size) for x in (one, other)]
        assert images[0] == images[1], "another cubin than Triton compiled"
        for field in ("grid", "block"):
            assert list(getattr(one, field)) == list(getattr(other, field)), field
        for field in ("shared_bytes", "stream", "num_bytes"):
            assert getattr(one, field) == getattr(other, field), field
        for at in range(0, one.num_bytes, 4):
            words = [bytes(x.bytes[at : at + 4]) for x in (one, other)]
            addresses = [int.from_bytes(bytes(x.bytes[at : at + 8]), "little") for x in (one, other)]
            place = storages.place(addresses[0]) if at % 8 == 0 else None
            if place is not None:
                base, distance = place
                assert moved.setdefault(base, addresses[1] - distance) == addresses[1] - distance, f"address at {at}"
            elif words[0] != words[1]:
                before = int.from_bytes(bytes(one.bytes[at - 4 : at + 4]), "little")
                upper = at % 8 == 4 and storages.place(before) is not None  # half of an address
                assert upper, f"argument at {at}: {words}"
    assert len(set(moved.values())) == len(moved), "two buffers are one in the plan"
    for one, other in zip(_plans._tensors(expected), _plans._tensors(results), strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
    print(f"{said}: {len(by_plan)} launches, {len(moved)} tensors", flush=True)


def main() -> None:
    chosen = {said: case for said, case in CASES.items() if not sys.argv[2:] or said in sys.argv[2:]}
    for op in dict.fromkeys(op for op, _ in chosen.values()):
        shapes = [(said, run_on("meta")) for said, (of, run_on) in chosen.items() if of == op]
        aot_shapes.OPS[op] = lambda shapes=shapes: shapes
        aot.build(FOLDER / "cubins", ["sm_90"], [op], say=lambda line: None)
    _plans._cubins[CPU] = Cubins(FOLDER / "cubins", "sm_90")
    unusable = torch.ops.amt.plan_driver.default(LIBRARY)
    assert not unusable, unusable
    for said, (_, run_on) in chosen.items():
        check(said, run_on("cpu"))


if __name__ == "__main__":
    main()
