"""The serving benchmark's code path: its figures are not judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.serve import MARKS, questions
from benchmarks.servers import PEER_OPTIONS
from gpu_assets.settings import PROJECT_ROOT


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("arguments", "figure"),
    [
        (["--only", "speed", "--rounds", "1"], "ours to transformers serve"),
        (["--only", "overhead"], "bare FastAPI, p95"),
        (["--only", "swaps", "--swaps", "4"], "answers that mix versions"),
    ],
)
def test_a_part_runs_alone_and_reports(tmp_path: Path, arguments: list[str], figure: str) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.serve", *arguments, "--report", str(report)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=PROJECT_ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = {each["name"]: each for each in json.loads(report.read_text())}
    assert figure in figures
    if "speed" in arguments:
        tried = {str(options): figures[f"transformers serve {options}, tried"]["value"] for options in PEER_OPTIONS}
        assert f"transformers serve {max(tried, key=tried.__getitem__)}, best round" in figures
    if "swaps" in arguments:
        assert figures["requests that failed"]["value"] == figures[figure]["value"] == 0


def test_no_two_waves_begin_a_question_alike() -> None:
    waves = [questions(number, 128) for number in range(len(MARKS))]
    assert all(len(set(wave)) == 128 for wave in waves)
    assert len({question[0] for wave in waves for question in wave}) == len(waves)
