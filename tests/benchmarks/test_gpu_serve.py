"""The GPU benchmark's code path, on a CPU with small shapes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.servers import PEER_OPTIONS
from gpu_assets.settings import PROJECT_ROOT


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_dry_run_measures_every_contender_that_is_here(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_serve", "--dry-run", "--report", str(report)]
    command += ["--streams", "1", "4", "--tokens", "8", "--vllm", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=PROJECT_ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "vLLM is not measured" in done.stdout
    results = [(result["name"], result["streams"]) for result in json.loads(report.read_text())]
    servers = ["ours, hf", *(f"transformers serve {options}" for options in PEER_OPTIONS)]
    assert results == [("generate", 1), *((server, streams) for server in servers for streams in (1, 4))]
