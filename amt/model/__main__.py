"""``python -m amt.model [size ...]``: what each part of a model costs. Takes no memory for the weights and computes nothing."""

from __future__ import annotations

import warnings

from amt.errors import UsageError
from amt.model.config import SIZES, ModelConfig
from amt.startup import Parser, run_program


def main(words: list[str] | None = None) -> int:
    """Prints the tables; 0, or 2 after one line that names a wrong word."""
    return run_program("amt.model", lambda: _main(words))


def _main(words: list[str] | None) -> int:
    parser = Parser(prog="python -m amt.model", description="What each part of a model costs.")
    parser.add_argument("size", nargs="*", help=f"{', '.join(SIZES)}; all of them by default")
    parser.add_argument("--batch-size", type=int, default=8, help="images of the pass that is counted (%(default)s)")
    parser.add_argument("--points", type=int, default=256, help="points of the object (%(default)s)")
    arguments = parser.parse_args(words)
    unknown = [size for size in arguments.size if size not in SIZES]
    if unknown:
        raise UsageError(f"size must be one of {', '.join(SIZES)}; got {unknown[0]!r}")
    for name in ("batch_size", "points"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(arguments, name)}")
    import torch  # only once the words are known to be good

    from amt.model.amt import AMT

    for i, size in enumerate(arguments.size or SIZES):
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that DINOv2 starts at random does not matter here
            model = AMT(ModelConfig(size=size))
        print(("\n" if i else "") + str(model.summary(arguments.batch_size, arguments.points)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
