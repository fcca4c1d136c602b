"""Every planted bug is found at its line, and nothing is found in its clean twin."""

from __future__ import annotations

import numpy as np
import pytest
from bugs import CASES, Case, expected, full_text
from cxx import TRACKED, builds, compilers, settings_of

from mlx_tilegemm import emulator
from mlx_tilegemm.emulator import FindingKind, KernelCheckError, Settings

TEXT = full_text()
X = np.linspace(1.0, 100.0, 256, dtype=np.float32)
SCHEDULES = (
    {"order": "forward"},
    {"order": "reverse", "workers": 1},
    {"order": "random", "seed": 7},
)


def findings_of(text: str, case: Case, settings: Settings) -> tuple[emulator.Finding, ...]:
    buffers = [X, emulator.Output(shape=(256,), dtype=np.float32)]
    try:
        emulator.run_text(
            text,
            kernel=case.name,
            buffers=buffers,
            grid=(256, 1, 1),
            threadgroup=(64, 1, 1),
            settings=settings,
        )
    except KernelCheckError as error:
        return error.findings
    return ()


@pytest.mark.parametrize(
    "schedule",
    [*SCHEDULES[:-1], pytest.param(SCHEDULES[-1], marks=pytest.mark.slow)],
    ids=lambda schedule: schedule["order"],
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("build", builds())
def test_planted_bug(build, case, schedule):
    found = findings_of(TEXT, case, settings_of(build, **schedule))
    if case.name == "rows_left_out":
        assert [(f.kind, f.buffer, f.index) for f in found] == [
            (FindingKind.UNWRITTEN_OUTPUT, "y", 5)
        ]
        return
    assert {(f.line, str(f.kind)) for f in found} == expected(TEXT, case, build), found
    assert not (found and case.name.endswith("_clean"))


@pytest.mark.slow
@pytest.mark.parametrize("build", [TRACKED, *compilers()[:1]])
def test_lines_are_of_this_launch_where_workers_race_for_a_record(build):
    (clean,) = [case for case in CASES if case.name == "output_read_back_clean"]
    (racing,) = [case for case in CASES if case.name == "all_write_all_tiles"]
    settings = settings_of(build, workers=2)
    lines = set()
    for _ in range(150):
        assert not findings_of(TEXT, clean, settings)
        lines |= {(f.line, f.other_line) for f in findings_of(TEXT, racing, settings)}
    ((line, _),) = expected(TEXT, racing, build)
    assert lines == {(line, line)}
