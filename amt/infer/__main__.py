"""``python -m amt.infer CHECKPOINT INPUT...``: hand, object and contact of images or a video, as pictures and JSON lines."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from amt.infer.checks import InputError
from amt.infer.command import Command, read_command
from amt.infer.inputs import Images, open_source
from amt.startup import run_program, tell

if TYPE_CHECKING:
    from amt.infer.job import Job
    from amt.locate.mediapipe import MediaPipeLocator


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; 0, or 2 after one line on stderr for each input that could not be used."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("amt.infer", lambda: _main(arguments), "interrupted; finished results stay")


def _main(arguments: list[str]) -> int:
    command = read_command(arguments)
    options = command.options
    if options.engine == "ray":
        return _collection(command, arguments)
    source = None if options.bench or options.serve else open_source(command.inputs, options.video, options.every)
    if options.live and isinstance(source, Images) and source.rate is None:
        raise InputError("--live: expected camera:0, a video, or pictures with --video FPS")
    if "lerobot" in command.exports and isinstance(source, Images) and source.rate is None:
        raise InputError("--export lerobot: expected a video, or pictures with --video FPS")
    # Imported late: what is wrong with the words is told before PyTorch loads.
    import torch

    from amt.config import choose_device, set_threads
    from amt.infer.engine import out_of_memory
    from amt.kernels import BackendUnavailable, use
    from amt.model.config import AUTO

    set_threads(command.settings["infer"].threads)
    device = choose_device(options.device, "--device")
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device}: cannot be used ({reason}); leave it out to take what there is") from error
    try:
        with use(command.settings["kernels"].use):
            if options.bench:
                return _bench(command, device)
            job = job_of(command, command.checkpoint, device)
            if options.serve:
                from amt.infer.serve.server import serve

                serve(job, str(command.checkpoint), options.host or "127.0.0.1", options.port)
                return 0
            if options.benchmark:
                from amt.infer.benchmark import benchmark

                infer = command.settings["infer"]
                precision = "float32" if infer.precision == AUTO else infer.precision
                benchmark(job, source, options.batch, precision, _mediapipe(infer.mediapipe))
                return 0
            if not options.live:
                return _run(job, source)
            from amt.infer.live import LiveView

            with LiveView(options.port) as job.live:
                print(f"live at {job.live.url}, until Ctrl-C", flush=True)
                return _run(job, source)
    except BackendUnavailable as error:
        raise InputError(f"kernels.use: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(f"--batch {options.batch}: the memory of {device} is used up; take a smaller one") from error


def job_of(command: Command, checkpoint: str | Path, device, locator: str | None = None) -> Job:
    """The settings of a run with one checkpoint; ``locator`` stands over that of the command line."""
    import torch

    from amt.infer.job import Job
    from amt.infer.output import OutputFolder
    from amt.infer.predictor import load
    from amt.model.config import AUTO
    from amt.model.fp8 import use_precision
    from amt.model.fused_blocks import use_blocks
    from amt.model.lean import bfloat16_is_slow

    options, infer = command.options, command.settings["infer"]
    device = torch.device(device)
    narrow = infer.precision == AUTO and device.type == "cpu" and not bfloat16_is_slow(device)
    predictor = load(
        checkpoint,
        device,
        models=options.models,
        batch_size=options.batch,
        max_spread=infer.max_spread,
        engine=infer.engine,
        bfloat16=infer.precision == "bf16",
        narrow=narrow,
        locator=locator or options.locator or infer.locator,
        mediapipe=infer.mediapipe,
        **({} if command.hand is None else {"hand": command.hand}),
    )
    precision = "float32" if infer.precision == AUTO else infer.precision
    products = use_precision(predictor.model, "infer.precision", precision, training=False)
    if products:
        print(f"infer.precision={infer.precision}: {products}", file=sys.stderr)
    blocks = use_blocks(predictor.model, infer.blocks)
    if infer.blocks != "auto":
        print(f"infer.blocks={infer.blocks}: {blocks}", file=sys.stderr)
    if infer.precision == "bf16" and bfloat16_is_slow(device):
        print("infer.precision=bf16: this CPU has no bfloat16 arithmetic; float32 is faster", file=sys.stderr)
    unwritten = options.benchmark or options.bench or options.serve or options.engine == "ray"
    unwritten = unwritten or (options.live and options.out is None)
    return Job(
        predictor=predictor,
        out=None if unwritten else OutputFolder(command.out, options.overwrite),
        camera=command.camera,
        lens=command.lens,
        fov=options.fov,
        box=command.box,
        search=options.box == "auto",
        side=options.side,
        object=options.object,
        mano=command.mano,
        draw=not options.no_draw,
        exports=command.exports,
        robot=command.robot,
        world=command.world,
        rerun=None if options.rerun is None else Path(options.rerun),
        fit=infer.fit,
        threads=infer.threads,
        smooth=infer.smooth,
        tell=_complain,
    )


def _collection(command: Command, arguments: list[str]) -> int:
    """``--engine ray``: predicts the parts that are not done yet, by workers, and joins all."""
    from amt.infer.stores import list_items

    options = command.options
    items = list_items(command.inputs, options.every)
    from tqdm import tqdm

    from amt.config import choose_device
    from amt.infer.collection import digest_of, divide, join, to_do
    from amt.infer.output import OutputFolder
    from amt.infer.ray_engine import map_parts

    on_gpu = choose_device(options.device, "--device").type == "cuda"
    out = OutputFolder(command.out, options.overwrite)
    parts = divide(items, options.batch, digest_of(command))
    missing = to_do(parts, out.folder)
    before = len(items) - sum(len(part.items) for part in missing)
    start = time.perf_counter()
    if missing:
        with tqdm(total=len(items), initial=before, unit="image") as bar:
            for count in map_parts(arguments, missing, out.folder, options.workers, on_gpu):
                bar.update(count)
    used, failed = join(parts, out)
    for name, reason in failed:
        _complain(f"{name}: {reason}")
    print(out.folder / "predictions.jsonl")
    print(f"{used} image(s), {before} of them done before, in {time.perf_counter() - start:.1f} s")
    if failed:
        _complain(f"{len(failed)} of {len(items)} image(s) could not be used (named above)")
    return 2 if failed else 0


def _run(job: Job, source) -> int:
    from amt.infer.run import run

    start = time.perf_counter()
    frames, failed = run(job, source)
    seconds = time.perf_counter() - start
    written = [] if job.out is None else job.out.written
    for path in written if len(written) <= 8 else [*written[:3], "...", *written[-3:]]:
        print(path)
    if frames:
        print(
            f"{frames} image(s) in {seconds:.1f} s, {frames / seconds:.1f} frames/s with reading, drawing and writing"
        )
    if failed:
        _complain(f"{failed} of {frames + failed} image(s) could not be used (named above)")
    return 2 if failed else 0


def _mediapipe(source: str | None) -> MediaPipeLocator | None:
    """MediaPipe's models, to be timed beside ours; None where ``infer.mediapipe`` is not given and they are not installed."""
    from amt.locate.mediapipe import MediaPipeError, MediaPipeLocator

    try:
        return MediaPipeLocator(source)
    except MediaPipeError as error:
        if source is not None:
            raise
        _complain(f"MediaPipe is not timed: {error}")
        return None


def _bench(command: Command, device) -> int:
    from amt.infer.bench import clips_of, measure, mediapipe_landmarks, table

    clips, landmarks, rows = clips_of(Path(command.options.bench), command.options.every), mediapipe_landmarks(), {}
    if landmarks is None:
        _complain("MediaPipe is not installed: no answer is compared with its joints")
    for checkpoint in (command.checkpoint, *command.options.others):
        for finder in command.options.finders or [None]:
            job = job_of(command, checkpoint, device, finder)
            name = str(checkpoint) if finder is None else f"{checkpoint}, {finder}"
            rows[name] = measure(job, clips, landmarks, _complain).row()
    print(table(rows))
    return 0


def _complain(problem: object) -> None:
    from amt.infer.job import above_progress

    with above_progress():
        tell("amt.infer", problem)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, with whole files
    sys.exit(main())
