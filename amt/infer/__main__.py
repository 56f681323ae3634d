"""``python -m amt.infer CHECKPOINT INPUT...``: hand, object and contact of images or a video, as pictures and JSON lines."""

from __future__ import annotations

import sys
import time

from amt.infer.checks import InputError
from amt.infer.command import Command, read_command
from amt.infer.inputs import open_source
from amt.startup import run_program, tell


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 0, or 2 after one line on stderr for each input that could not be used."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("amt.infer", lambda: _main(arguments), "interrupted; finished results stay")


def _main(arguments: list[str]) -> int:
    command = read_command(arguments)
    return _run(command, open_source(command.inputs, command.options.video))


def _run(command: Command, source) -> int:
    # Imported late: what is wrong with the words is told before PyTorch loads.
    import torch

    from amt.config import choose_device, set_threads
    from amt.infer.job import Job
    from amt.infer.output import OutputFolder
    from amt.infer.predictor import load
    from amt.infer.run import run
    from amt.kernels import BackendUnavailable, use
    from amt.model.fp8 import use_fp8
    from amt.model.fused_blocks import use_blocks

    options, infer = command.options, command.settings["infer"]
    set_threads(infer.threads)
    device = choose_device(options.device, "--device")
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device}: cannot be used ({reason}); leave it out to take what there is") from error
    try:
        with use(command.settings["kernels"].use):
            predictor = load(
                command.checkpoint,
                device,
                models=options.models,
                batch_size=options.batch,
                max_spread=infer.max_spread,
                **({} if command.hand is None else {"hand": command.hand}),
            )
            if infer.precision == "fp8":
                print(f"infer.precision=fp8: {use_fp8(predictor.model)}", file=sys.stderr)
            if infer.blocks != "auto":
                print(f"infer.blocks={infer.blocks}: {use_blocks(predictor.model, infer.blocks)}", file=sys.stderr)
            else:
                use_blocks(predictor.model, "auto")
            job = Job(
                predictor=predictor,
                out=OutputFolder(command.out, options.overwrite),
                intrinsics=command.intrinsics,
                fov=options.fov,
                box=command.box,
                search=options.box == "auto",
                side=options.side,
                object=options.object,
                mano=command.mano,
                draw=not options.no_draw,
                fit=infer.fit,
                tell=_complain,
            )
            start = time.perf_counter()
            frames, failed = run(job, source)
            seconds = time.perf_counter() - start
    except BackendUnavailable as error:
        raise InputError(f"kernels.use: {error}") from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InputError(f"--batch {options.batch}: the memory of {device} is used up; take a smaller one") from error
    written = job.out.written
    for path in written if len(written) <= 8 else [*written[:3], "...", *written[-3:]]:
        print(path)
    if frames:
        print(
            f"{frames} image(s) in {seconds:.1f} s, {frames / seconds:.1f} frames/s with reading, drawing and writing"
        )
    if failed:
        _complain(f"{failed} of {frames + failed} image(s) could not be used (named above)")
    return 2 if failed else 0


def _complain(problem: object) -> None:
    tell("amt.infer", problem)


if __name__ == "__main__":
    sys.exit(main())
