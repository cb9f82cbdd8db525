import subprocess
import sys

from gpu_assets.settings import PROJECT_ROOT


def test_the_validators_load_neither_dagster_nor_torch():
    code = "import sys, validators; print(sorted({'dagster', 'torch', 'transformers', 'pandas'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.strip() == "[]"
