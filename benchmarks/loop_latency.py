"""How long a dropped file waits: from the inbox to `validated_datasets`, with everything up.

    python -m benchmarks.loop_latency [--files 5] [--rows 2000]

The limit in the same run is Dagster's own: its sensor loop looks every 5 seconds, so 2.5 seconds on
average pass before any sensor can see a file, and an empty run takes its start. The ratio to that
limit is what our part costs. Also: seconds to load all definitions, against `import dagster` alone.
Prints a table and, with --json FILE, writes the figures.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dagster as dg
from rich.console import Console
from rich.table import Table

from gpu_assets.cli.make import drop_generated
from gpu_assets.cli.supervisor import Supervisor
from gpu_assets.settings import load_settings

SENSOR_LOOP_S = 5.0
"""Dagster's constant (MIN_INTERVAL_LOOP_TIME): half of it passes on average before a sensor's tick."""
LIMIT_S = SENSOR_LOOP_S / 2
NO_TRAINING = {"hyperparams.num_epochs": "1", "hyperparams.max_rows_per_run": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["GPU_ASSETS_HOME"] = home
        waits = drop_to_validated(arguments.files, arguments.rows)
    definitions, bare = (load_seconds(code) for code in (
        "import gpu_assets.definitions as d; d.defs().get_repository_def()", "import dagster"
    ))  # fmt: skip
    figures = {
        "drop_to_validated_s": {"median": statistics.median(waits), "max": max(waits), "runs": len(waits)},
        "ratio_to_sensor_loop_limit": statistics.median(waits) / LIMIT_S,
        "definitions_load_s": definitions,
        "ratio_to_import_dagster": definitions / bare,
    }
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def drop_to_validated(files: int, rows: int) -> list[float]:
    """Seconds a file, dropped one after the other; training of the earlier files goes on beside it."""
    settings = load_settings(NO_TRAINING)
    waits: list[float] = []
    with Supervisor(settings, NO_TRAINING, Console(quiet=True)) as supervisor:
        supervisor.wait_healthy()
        with dg.DagsterInstance.from_config(str(supervisor.workspace.dagster)) as instance:
            for seed in range(1, files + 1):
                begun = time.monotonic()
                drop_generated(settings, seed=seed, count=rows)
                while len(instance.get_materialized_partitions(dg.AssetKey("validated_datasets"))) < seed:
                    time.sleep(0.05)
                waits.append(time.monotonic() - begun)
    return waits


def load_seconds(code: str, repeats: int = 5) -> float:
    """Median wall seconds of a fresh interpreter that runs the code."""
    seconds = []
    for _ in range(repeats):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
        seconds.append(time.monotonic() - begun)
    return statistics.median(seconds)


def show(figures: dict[str, object]) -> None:
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, json.dumps(value) if isinstance(value, dict) else f"{value:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
