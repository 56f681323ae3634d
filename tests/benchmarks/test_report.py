"""No figure without a file behind it."""

import json
import re

import pytest

from benchmarks import compare, plot, report, tables
from benchmarks.goals import GOALS, PYRAMID
from benchmarks.results import ROOT


def record(batch, ratio, **others):
    return {
        "op": "refine", "pass": "forward", "shape": PYRAMID | {"B": batch}, "dtype": "float32", "device": "cpu",
        "times_ms": {"ours": {"median": 2.0}, "eager": {"median": 2.0 * ratio}}, "best_rival": "eager", "variants": [],
        "eager_ms": 2.0 * ratio, "compiled_ms": None, "graph_ms": None, "ours_ms": 2.0, "ratio_eager": ratio,
        "ratio_best": ratio, "gb_s": 1234.5, "copy_share": 0.123, "tflop_s": 0.05, "matrix_share": 0.5,
        "peak_memory_mb": {"ours": 1.0, "eager": 8.0}, "launches": {"ours": 1, "eager": 46}, "error": {"ours": 2e-7},
        "commit": "abc", "date": "today",
    } | others  # fmt: skip


@pytest.fixture
def house(tmp_path):
    """A README with every table, a results folder with one file, and a call of the report on both."""
    folder, readme, second = tmp_path / "results", tmp_path / "README.md", tmp_path / "benchmarks.md"
    folder.mkdir()
    second.write_text("<!-- benchmarks:begin machines -->\n<!-- benchmarks:end machines -->\n")
    blocks = "".join(f"<!-- benchmarks:begin {n} -->\n<!-- benchmarks:end {n} -->\n\n" for n in tables.NAMES)
    readme.write_text(f"# Title\n\n{blocks}![speed](results/plot.png)\n")

    def write(*records, device="cpu", machine="A processor"):
        environment = {
            "machine": machine,
            "device": device,
            "versions": {"torch": "2.13"},
            "commit": "abc",
            "date": "today",
        }
        ceilings = {"copy_gb_s": 9.0, "matrix_tflop_s": {"float32": 0.25, "float8_e4m3fn": 0.5}}
        data = {"schema": 1, "environment": environment, "ceilings": ceilings, "records": list(records)}
        (folder / f"{device}.json").write_text(json.dumps(data))

    def run(*options):
        return report.main(["--pages", str(readme), str(second), "--results", str(folder), *options])

    write(record(1, 4.0), record(256, 3.0))
    return readme, write, run


def test_tables_are_written_and_then_current(house):
    readme, _, run = house
    assert run("--check") == 1
    assert run() == 0
    assert run("--check") == 0
    text = readme.read_text()
    assert "| A processor | refine B 256 float32, over the fastest rival | ≥ 2 × | 3 × | met |" in text
    assert "| A processor | refine B 1, over eager | ≥ 3 × | 4 × | met |" in text
    assert "| GPU | model L, one image | ≤ 5 ms | not yet measured |  |" in text
    assert (
        "| refine | maps pyramid C 256 B 256 | float32 | forward | 6 | – | – | 2 | 3 | 3 | 1,234 (12 %) | 0.05 (50 %) "
        in text
    )
    assert "| 1 (8) | 1 (46) | 2.0e-07 |" in text
    assert "| A processor | 9 | fp32 0.25, fp8 0.5 | torch 2.13 | abc | today |" in text
    before = text
    assert run() == 0
    assert readme.read_text() == before


def test_stale_table_and_stale_plot_fail_the_check(house, capsys):
    _, write, run = house
    assert run() == 0
    write(record(1, 5.0), record(256, 3.0))
    capsys.readouterr()
    assert run("--check") == 1
    said = capsys.readouterr().err
    assert "the table 'refine' is not what the results files give" in said
    assert "plot.png is not what the results files give" in said
    assert "run `python -m benchmarks.report`" in said


def test_edited_figure_fails_the_check(house):
    readme, _, run = house
    run()
    readme.write_text(readme.read_text().replace("| 3 × | met |", "| 4 × | met |"))
    assert run("--check") == 1


@pytest.mark.parametrize(
    "line", ["It takes 3.4 ms.", "a rate of 790 TFLOP/s", "12× faster than eager", "5,000 images/s"]
)
def test_speed_outside_a_table_fails_the_check(house, capsys, line):
    readme, _, run = house
    run()
    readme.write_text(readme.read_text() + line + "\n")
    assert run("--check") == 1
    assert "stands outside a table, with no results file behind it" in capsys.readouterr().err
    readme.write_text(readme.read_text().replace(line, f"{line} {report.EXEMPT}"))
    assert run("--check") == 0


def test_code_blocks_and_other_numbers_do_not_count(house):
    readme, _, run = house
    run()
    readme.write_text(
        readme.read_text() + "```\n[00:12, 8.1 frames/s]\n```\n12 mm, 5 msgs, 3 × 3, 640×480, 21 joints\n"
    )
    assert run("--check") == 0


def test_missed_goal_failed_case_quick_run_and_gpu_cells(house):
    readme, write, run = house
    write(record(256, 1.5), record(1, 4.0, failed="result 0 is off | badly"), record(8, 99.0, quick=True))
    write(record(512, 9.0, device="cuda", dtype="bfloat16"), device="cuda", machine="A card")
    run()
    text = readme.read_text()
    assert "| A processor | refine B 256 float32, over the fastest rival | ≥ 2 × | 1.5 × | missed |" in text
    assert "| CPU | refine B 1, over eager | ≥ 3 × | not yet measured |  |" in text
    assert "failed: result 0 is off / badly" in text
    assert " 99 " not in text
    assert "| A card | refine B 512, over eager | ≥ 8 × | 9 × | met |" in text
    assert text.index("A card:") < text.index("A processor:")


def test_without_any_results_every_cell_says_so(house, tmp_path):
    readme, _, run = house
    (tmp_path / "results" / "cpu.json").unlink()
    assert run() == 0
    text = readme.read_text()
    assert text.count("| not yet measured |  |\n") == 2 * len(GOALS)  # once in "goals", once in the device's own
    headline = [(device, dtype) for device, _, _, dtype, _ in tables.HEADLINE]
    assert text.count("bfloat16 | GPU | not yet measured |  |  |") == headline.count(("cuda", "bfloat16"))
    assert text.count("float32 | CPU | not yet measured |  |  |") == headline.count(("cpu", "float32"))
    assert "GPU: not yet measured.\n\nCPU: not yet measured." in text
    assert run("--check") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "<!-- benchmarks:begin nothing -->\n<!-- benchmarks:end nothing -->",
            "README.md: there is no table 'nothing'",
        ),
        ("<!-- benchmarks:begin goals -->\n", "do not pair up"),
        ("<!-- benchmarks:begin goals -->\n<!-- benchmarks:end refine -->", "do not pair up"),
    ],
)
def test_broken_markers_are_an_error_that_destroys_nothing(house, capsys, text, message):
    readme, _, run = house
    readme.write_text(text)
    assert run() == 1
    assert message in capsys.readouterr().err
    assert readme.read_text() == text


def test_broken_results_file_is_named(house, tmp_path, capsys):
    _, _, run = house
    (tmp_path / "results" / "gpu.json").write_text("{")
    assert run() == 1
    assert "gpu.json is not a results file" in capsys.readouterr().err


def test_plot_carries_the_digest_of_what_it_shows(house, tmp_path):
    _, _, run = house
    run()
    picture = tmp_path / "results" / "plot.png"
    files = report.read(tmp_path / "results")
    assert plot.is_current(picture, files)
    files[0]["records"][0]["ours_ms"] = 2.5
    assert not plot.is_current(picture, files)


def test_every_goal_says_what_it_wants():
    assert len({(g.text, g.device) for g in GOALS}) == len(GOALS)
    for goal in GOALS:
        assert (goal.least is None) != (goal.most is None)
        assert goal.device in tables.KINDS
        assert goal.op in ("video", "crops") or any(goal.op in ops for ops in tables.OPS.values())


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0, "0"), (0.05, "0.05"), (1.2345, "1.23"), (12345.6, "12,346"), (2e-5, "0.00002")]
)
def test_numbers_have_three_digits(value, text):
    assert tables.number(value) == text


def test_graphs_stand_beside_graphs_and_single_calls_beside_single_calls():
    times = {"ours": 4.0, "eager": 9.0, "compiled": 7.0, "ours graph": 1.0, "eager graph": 3.0, "triton graph": 0.5}
    both = record(512, 3.0, times_ms={n: {"median": t} for n, t in times.items()}, variants=["triton"])
    assert compare.like_with_like(both) == ("CUDA graph", "eager", 1.0, 3.0)
    times = {"ours": 4.0, "ours compiled": 3.5, "eager": 9.0, "compiled": 7.0, "ours graph": 0.1}
    lone = record(512, 3.0, times_ms={n: {"median": t} for n, t in times.items()})  # no rival could be captured
    assert compare.like_with_like(lone) == ("single calls", "compiled", 3.5, 7.0)
    assert compare.like_with_like(record(1, 1.0, times_ms={"ours": {"median": 1.0}})) is None


def test_a_time_of_a_loaded_machine_is_kept_and_not_shown(house, tmp_path):
    readme, write, run = house
    write(record(1, 4.0), record(256, 6.125, load_average=9.0, cores=2, loaded=True))
    assert run() == 0
    assert "6.12" not in readme.read_text()
    assert "| CPU | refine B 256 float32, over the fastest rival | ≥ 2 × | not yet measured |  |" in readme.read_text()
    assert len(report.read(tmp_path / "results")[0]["records"]) == 2


def test_a_missed_goal_says_what_limits_it(house):
    readme, write, run = house
    write(record(256, 1.5, limit="`refine_kernel`, 80 % of the time, memory at 91 % of the peak"))
    run()
    row = "| 1.5 × | missed: `refine_kernel`, 80 % of the time, memory at 91 % of the peak |"
    assert f"| A processor | refine B 256 float32, over the fastest rival | ≥ 2 × {row}" in readme.read_text()


def test_whole_models_say_how_many_images_and_how_much_the_gpu_waits(house):
    readme, write, run = house
    shape = {"size": "S", "px": 224, "B": 128}
    write(
        record(0, 2.0, op="training step", shape=shape, device="cuda", samples_s=9876.5, host_share=0.347),
        record(1, 3.0, device="cuda"),
        device="cuda",
        machine="A card",
    )
    run()
    text = readme.read_text()
    assert "| 1 (8) | 1 (46) | 2.0e-07 | 9,876 | 35 % |" in text
    assert text.count("images/s | host share") == 1  # refine's table has neither


VIDEO = {
    "op": "video", "pass": "frames to film", "shape": {"checkpoint": "amt-tiny", "size": "tiny", "frame": "640x480"},
    "dtype": "float32", "device": "cuda", "samples_s": 187.5, "samples_s_busy": 99.0, "answer_ms": 4.25, "network_ms": 3.5,
    "network_of_16_ms": 0.4, "over_plain": {"network": 2.5, "answer": 2.25, "end to end": 2.0}, "first_answer_s": 3.75,
    "commit": "abc", "date": "today",
}  # fmt: skip
LEARNED = {
    "op": "training run", "pass": "rendered, trained, evaluated", "shape": {"size": "tiny", "px": 112, "B": 128},
    "dtype": "bfloat16", "device": "cuda", "images": 1_280_000, "samples_s": 4321.0, "scenes": 4000, "render_cores": 16,
    "seconds": {"render": 150, "train": 300, "evaluate": 40}, "of_mean_pose": 0.187, "frames": 256,
    "curve": [[32_000, 40.0, 12.0, 60.0], [40_000, 39.0, 11.0, 59.0], [64_000, 30.0, 10.0, 50.0], [65_000, 29.5, 9.9, 49.0]],
    "metrics": {"wrist_aligned_mpjpe_mm": 18.94, "procrustes_mpjpe_mm": 7.1, "absolute_mpjpe_mm": 40.0, "adds_mm": 30.0,
                "rotation_median_deg": 25.0, "rotation_below_30": 0.5, "contact_f1": 0.5432},
    "commit": "abc", "date": "today",
}  # fmt: skip


def test_a_video_and_a_training_run_have_tables_and_goals(house):
    readme, write, run = house
    write(VIDEO, LEARNED, device="cuda", machine="A card")
    assert run() == 0
    text = readme.read_text()
    assert "| A card | `amt-tiny` | 188 | 99 | 3.5 | 0.4 | 4.25 | 3.75 | 2.5 × | 2.25 × | 2 × |" in text
    assert "| A card | video 640×480 with drawing, `amt-tiny` | ≥ 200 frames/s | 188 frames/s | missed |" in text
    assert "A card, `tiny` at 112 px, batches of 128, scored on 256 frames of test people:" in text
    for row in ("images seen | 1,280,000", "scenes rendered | 4,000 by 16 cores", "… over the mean pose's | 0.187"):
        assert f"| {row} |" in text
    assert "| 32,000 | 40.0 | 12.0 | 60.0 |\n| 64,000 | 30.0 | 10.0 | 50.0 |\n| 65,000 | 29.5 | 9.9 | 49.0 |" in text
    assert run("--check") == 0


def test_headline_takes_the_newest_file_and_quotes_no_absolute_time_of_a_cpu(house):
    readme, write, run = house
    times = {"ours": 4.0, "eager": 9.0, "ours graph": 1.0, "compiled graph": 3.0}
    card = {n: {"median": t} for n, t in times.items()}
    write(record(512, 3.0, device="cuda", dtype="bfloat16", times_ms=card), device="cuda", machine="A card")
    run()
    text = readme.read_text()
    sizes = "maps pyramid C 256 B 512, bfloat16"
    assert f"| `refine`, forward | {sizes} | A card, CUDA graph | 1 ms | torch.compile 3 ms | 3 × |" in text
    assert "| maps pyramid C 256 B 256, float32 | A processor | – | eager PyTorch | 3 × |" in text


def test_every_page_is_written_and_checked(house, tmp_path, capsys):
    _, _, run = house
    run()
    second = tmp_path / "benchmarks.md"
    assert "A processor" in second.read_text()
    second.write_text(second.read_text().replace("fp32 0.25", "fp32 0.26"))
    assert run("--check") == 1
    assert "benchmarks.md: the table 'machines' is not what the results files give" in capsys.readouterr().err


def test_files_that_the_pages_name_are_there():
    named = re.compile(r"`((?:amt|csrc|benchmarks|tests|tools)/[\w/.]+\.(?:py|sh|cpp|h|cuh?|md|json))`")
    pages = [path for path in (ROOT / "docs").glob("*.md") if path.name != "log.md"]  # the log names what was there
    found = {
        name: page.name
        for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages)
        for name in named.findall(page.read_text())
    }
    assert len(found) > 10
    assert {name: page for name, page in found.items() if not (ROOT / name).exists()} == {}
