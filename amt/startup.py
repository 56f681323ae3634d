"""What every program does the same way: before PyTorch loads, with a wrong word, and at its end. Imports nothing heavy."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from amt.errors import UsageError, UserError

SPINS = 3000  # GNU's OpenMP spins 300,000 times by itself
CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
KEPT = 32 << 20  # bytes: the largest block that glibc can be told to keep for the next one
MEMORY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
IMPLEMENTATIONS = ("auto", "reference", "native", "triton", "cuda")  # amt.kernels.use's
VARIABLES = {  # each with the values that it takes; None: any
    "AMT_KERNELS": IMPLEMENTATIONS,
    "AMT_CPU_ISA": ("0", "1", "2", "3"),
    "AMT_NATIVE_LIBRARY": None,
    "AMT_CUDA": None,
    "AMT_CUTLASS": None,
    "AMT_CUTLASS_DIR": None,
    "AMT_COMMIT": None,
}


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes raise UsageError. ``prog`` is ``python -m amt.<name>``."""

    def error(self, message: str):
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args=None, namespace=None):
        for word in sys.argv[1:] if args is None else args:
            known = word.partition("=")[0] in self._option_string_actions
            if word.startswith("-") and not known and os.path.lexists(word):
                raise UsageError(f"{word}: a word that begins with - is an option; write ./{word} for the file")
        return super().parse_known_args(args, namespace)


def run_program(
    name: str, main: Callable[[], int], interrupted: str = "interrupted", unchecked: Sequence[str] = ()
) -> int:
    """The exit status of a program: ``main``'s, or 2 after one line that says what was wrong, or 130 after Ctrl-C.

    Args:
        name: ``python -m <name>``; the line begins with it.
        main: does the work. PyTorch is imported in it, once the words are known to be good.
        interrupted: what is said after Ctrl-C: what it leaves, and what continues it.
        unchecked: environment variables that ``main`` looks at itself.
    """
    bound_spin()
    keep_memory()
    try:
        check_variables(unchecked)
        status = main()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of a pipe, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UserError, OSError) as error:
        return tell(name, error)
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "amt":
            raise
        return tell(
            name, f"the package {error.name} is not installed; pip install -e . brings what every program needs"
        )
    except KeyboardInterrupt:
        return tell(name, interrupted, 130)


def tell(name: str, problem: object, status: int = 2) -> int:
    """Prints one line on stderr that begins with the program's name; returns ``status``."""
    if isinstance(problem, OSError) and problem.strerror:
        full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free space, or choose another folder" if full else "check the path and its permissions"
        problem = f"{f'{problem.filename}: ' if problem.filename else ''}{problem.strerror}; {remedy}"
    print(f"{name}: {' '.join(str(problem).split())}", file=sys.stderr)
    return status


def check_variables(but: Sequence[str] = ()) -> None:
    """Raises UsageError for an environment variable of AMT with a wrong value, or with a name that is almost right.

    Args:
        but: names of variables that are not looked at.
    """
    for name, value in sorted(os.environ.items()):
        if not name.startswith("AMT_") or name in but:
            continue
        similar = get_close_matches(name, VARIABLES, 1, cutoff=0.8)
        if name not in VARIABLES and similar:
            raise UsageError(f"the environment variable {name} means nothing to AMT; write {similar[0]}, or unset it")
        choices = VARIABLES.get(name)
        if choices and value not in choices:
            raise UsageError(f"the environment variable {name} must be one of {', '.join(choices)}, got {value!r}")
        if name == "AMT_NATIVE_LIBRARY" and not os.path.isfile(value):
            raise UsageError(
                f"the environment variable {name} names {value}, which does not exist; correct or unset it"
            )


def bound_spin() -> None:
    """Lets idle OpenMP threads sleep after a short spin, unless the user has chosen by a variable of :data:`CHOSEN`.

    Threads that spin hold cores that the thread they wait for may need. OpenMP reads the variable when it is loaded, so this has
    to come before PyTorch. docs/log.md has the measurements behind the number (2026-11-28).
    """
    if not any(name in os.environ for name in CHOSEN):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def keep_memory() -> None:
    """Lets glibc keep freed memory for the next tensors, unless the user has chosen an allocator by a variable of :data:`MEMORY`.

    By itself it gives large blocks back, and the kernel clears each page of the next one: 20 MB of crops cost more so than their
    arithmetic. Memory is given back when the program ends. On other systems than Linux with glibc nothing happens.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in MEMORY):
        return
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, (1 << 31) - 1)
        mallopt(mmap_threshold, KEPT)
