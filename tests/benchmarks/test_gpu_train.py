"""The GPU benchmark's code path, on a CPU with small shapes."""

import os
import subprocess
import sys

import pytest

from gpu_assets.settings import PROJECT_ROOT


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_dry_run_prints_both_tables() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_train", "--dry-run", "--steps", "1", "--no-trl"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=PROJECT_ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| ours | " in done.stdout
    assert "Qwen3-4B shapes, full fine-tune, 32 packs a step" in done.stdout
