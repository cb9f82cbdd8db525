import pytest

from gpu_assets.settings import Validation
from tests.validators.conftest import make_chat
from validators import DATASET_SPECS, DataValidator, Limits
from validators.sinks import RowCollector

SPEC = DATASET_SPECS["chat_sft_v1"]


class Lines:
    def __init__(self):
        self.kept, self.left_out, self.rejected = b"", set(), []

    def take(self, chunk, left_out, rejected):
        self.kept += chunk.without(left_out)
        self.left_out |= set(left_out)
        self.rejected += rejected


@pytest.fixture
def path(write):
    """Line 2 is rejected at every level, line 3 is blank, and line 4 repeats line 1."""
    return write(make_chat("a", "b"), "nope", "", make_chat("a", "b"))


@pytest.mark.parametrize("level", ["quick", "standard", "deep"])
@pytest.mark.parametrize("with_rows", [False, True])
def test_a_line_sink_sees_which_lines_stay_at_every_level(renderer, path, level, with_rows):
    sink, rows = Lines(), RowCollector("chat_sft")
    report = DataValidator(renderer).validate_file(path, SPEC, level, rows if with_rows else None, line_sink=sink)

    first, _, _, last = path.read_bytes().splitlines(keepends=True)
    assert (report.accepted, report.rejected, report.blank_lines) == (2, 1, 1)
    assert sink.kept == first + last
    assert sink.left_out == {2, 3}
    assert [(row.line, row.reason) for row in sink.rejected] == [(2, "invalid_json")]
    assert rows.rejected == (sink.rejected if with_rows else [])


def test_a_line_sink_hears_of_rows_that_a_deeper_level_rejects(renderer, path):
    sink, limits = Lines(), Limits(Validation(severities={"exact_duplicate": "reject_row"}))
    DataValidator(renderer, limits).validate_file(path, SPEC, "deep", line_sink=sink)

    assert sink.left_out == {2, 3, 4}
    assert [row.reason for row in sink.rejected] == ["invalid_json", "exact_duplicate"]
