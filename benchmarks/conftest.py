"""pytest's side of the benchmarks: `pytest benchmarks` measures every case of every bench_*.py.

pytest-benchmark times ours and keeps its own file (`--benchmark-json=FILE`), with the harness's whole record as extra_info;
`--results FILE` also writes the file that `python -m benchmarks.report` reads.
"""

import pytest

from benchmarks import harness, timing
from benchmarks.results import Results


def pytest_addoption(parser):
    group = parser.getgroup("amt")
    group.addoption("--quick", action="store_true", help="few rounds, short shapes, no torch.compile")
    group.addoption("--results", metavar="FILE", help="write a results file for `python -m benchmarks.report` as well")


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    try:
        found = list(metafunc.module.cases(harness.default_device(), metafunc.config.getoption("quick")))
    except harness.Unavailable as reason:
        found = [pytest.param(None, marks=pytest.mark.skip(reason=str(reason)))]
    metafunc.parametrize("case", found, ids=str)


@pytest.fixture
def measured(benchmark, request):
    """Measures a case with the harness, then lets pytest-benchmark time ours, synchronised."""
    quick, path = request.config.getoption("quick"), request.config.getoption("results")

    def run(case: harness.Case) -> None:
        ceilings = harness.ceilings_of(case.device, quick)
        record = harness.measure(case, ceilings, quick)
        benchmark.group = case.op
        benchmark.extra_info.update(record)
        if path:
            store = Results(path, case.device)
            store.set_ceilings(ceilings)
            store.add(record)
        call = harness.rotating_call(case)

        def synchronised() -> None:
            call()
            timing.synchronize(case.device)

        rounds = harness.QUICK_ROUNDS if quick else harness.ROUNDS
        benchmark.pedantic(synchronised, rounds=rounds, warmup_rounds=2)

    return run
