"""Logs and exit codes of children."""

from pathlib import Path

import pytest

from gpu_assets.cli.children import LOGS_KEPT, describe_exit, rotate


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (3, "exit code 3"), (137, "SIGKILL"), (-15, "SIGTERM"), (127, "exit code 127")],
)
def test_an_exit_is_described_by_its_code_or_its_signal(code: int, words: str) -> None:
    assert describe_exit(code) == words


def test_each_start_has_a_log_of_its_own_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    for number in range(LOGS_KEPT + 3):
        rotate(log)
        log.write_text(str(number))

    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}

    assert kept == {"x.log": "7", "x.log.1": "6", "x.log.2": "5", "x.log.3": "4", "x.log.4": "3", "x.log.5": "2"}
