"""`gpu-assets validate` as it is typed."""

import gzip
import hashlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from gpu_assets.base_model.tiny import CHAT_TEMPLATE, build_tokenizer
from gpu_assets.cli.main import app
from gpu_assets.evaluation.records import EvaluationItem, EvaluationSet
from gpu_assets.evaluation.sets import freeze
from gpu_assets.rendering import Renderer
from gpu_assets.rendering.profiles import get_profile
from gpu_assets.settings import PROJECT_ROOT
from resources.workspace import Workspace
from serving.skills import binary
from validators import DATASET_SPECS, DataValidator, Rule
from validators.duplicates import DuplicateFinder
from validators.history import RowHistory
from validators.lines import zstd
from validators.report import ADJUSTABLE, SEVERITIES

GOOD = '{"messages": [{"role": "user", "content": "Who is there?"}, {"role": "assistant", "content": "Nobody."}]}'
BAD = '{"messages": [{"role": "user", "content": "Who is there?"}]}'
UNREADABLE_FILE = Path("/proc/self/mem")  # exists, is regular, and cannot be read at its beginning

Validate = Callable[..., Result]


@pytest.fixture
def validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Validate:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **kwargs: CliRunner().invoke(app, ["validate", *map(str, arguments)], **kwargs)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "good.jsonl", GOOD)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return write(tmp_path / "bad.jsonl", GOOD, BAD, GOOD.replace("Who", "What"))


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def files_of(result: Result) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads(result.stdout)["files"]
    return files


def by_rule(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {problem["rule"]: problem for problem in entry["problems"]}


def shell(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "gpu_assets.cli", "validate", *arguments],
        input=data,
        capture_output=True,
        timeout=60,
        cwd=PROJECT_ROOT,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
    )


def test_the_exit_code_is_0_all_valid_1_some_not_2_some_unreadable(good: Path, bad: Path) -> None:
    codes = [shell(*map(str, files)).returncode for files in ([good], [good, bad], [bad, "nowhere.jsonl", good])]

    assert codes == [0, 1, 2]


def test_standard_input_is_a_file_like_any_other(tmp_path: Path) -> None:
    done = shell("-", "--json", data=(GOOD + "\n" + BAD).encode())

    assert done.returncode == 1
    (entry,) = json.loads(done.stdout)["files"]
    assert (entry["path"], entry["rows"], entry["accepted"], entry["rejected"]) == ("-", 2, 1, 1)


@pytest.mark.parametrize("level", ["quick", "deep"])
def test_the_command_loads_neither_dagster_nor_torch_and_makes_no_home(good: Path, tmp_path: Path, level: str) -> None:
    not_wanted = ["dagster", "torch", "transformers", "pandas", "scipy", "pandera"]
    not_wanted += ["numpy", "ftfy", "rensa", "sqlite3"] if level == "quick" else []
    code = (
        "import sys; from gpu_assets.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        f"print(sorted(set({not_wanted}) & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "validate", str(good), "--level", level],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert not (tmp_path / "home").exists()


def test_json_has_the_promised_shape(validate: Validate, bad: Path) -> None:
    (entry,) = files_of(validate(bad, "--json"))

    assert {"path", "valid", "schema", "level", "rows", "accepted", "rejected", "problems", "stats"} <= entry.keys()
    assert (entry["path"], entry["valid"], entry["schema"], entry["level"]) == (
        str(bad),
        False,
        "chat_sft_v1",
        "standard",
    )
    assert (entry["rows"], entry["accepted"], entry["rejected"]) == (3, 2, 1)
    problem = by_rule(entry)["role_order"]
    assert (problem["severity"], problem["count"], round(problem["share"], 3)) == ("reject_row", 1, 0.333)
    assert problem["examples"] == [{"line": 2, "seen": "the last turn is user, wanted assistant"}]
    assert entry["stats"]["num_tokens"]["max"] > 0


def test_an_unreadable_file_is_a_path_and_an_error(validate: Validate, good: Path) -> None:
    result = validate("nowhere.jsonl", good, "--json")

    assert result.exit_code == 2
    unreadable, fine = files_of(result)
    assert unreadable == {"path": "nowhere.jsonl", "error": "nowhere.jsonl cannot be read: No such file or directory"}
    assert fine["valid"]


def test_a_readable_file_that_fits_no_schema_is_not_valid(validate: Validate, tmp_path: Path) -> None:
    result = validate(write(tmp_path / "a.jsonl", '{"prompt": "a", "answer": "b"}'), "--json")

    assert result.exit_code == 1
    (entry,) = files_of(result)
    assert entry["valid"] is False
    assert "neither messages nor text" in entry["error"]


def test_the_table_names_files_and_problems(validate: Validate, good: Path, bad: Path) -> None:
    output = validate("good.jsonl", "bad.jsonl", "nowhere.jsonl").output

    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "good.jsonl valid chat_sft_v1 standard 1 1 0" in lines
    assert "bad.jsonl not valid chat_sft_v1 standard 3 2 1" in lines
    assert "nowhere.jsonl unreadable" in lines
    assert "role_order reject_row 1 33.3% 2 the last turn is user, wanted assistant" in lines
    assert "nowhere.jsonl cannot be read: No such file or directory" in lines


def test_names_and_what_is_seen_cannot_write_to_the_terminal(validate: Validate, tmp_path: Path) -> None:
    path = write(tmp_path / "a\x1b[31m[red].jsonl", GOOD, '{"messages": "\x1b[31m[bold]"}', "\x1b]0;x\x07")
    output = validate(path.name).output

    assert "\x1b" not in output and "\x07" not in output
    assert "a\\x1b[31m[red].jsonl" in output


def test_globs_are_expanded_and_every_file_is_looked_at_once(validate: Validate, good: Path, bad: Path) -> None:
    write(Path(f"{good}.meta.json"), '{"generator_id": "manual"}')
    write(good.parent / "deeper" / "c.jsonl", GOOD)

    paths = [entry["path"] for entry in files_of(validate("good.jsonl", "*.json*", "**/*.jsonl", "x*", "--json"))]

    assert paths == ["good.jsonl", "bad.jsonl", "deeper/c.jsonl", "x*"]
    assert validate("x*").output.count("no file matches x*") == 1


def test_a_name_with_glob_characters_that_is_there_is_that_file(validate: Validate, tmp_path: Path) -> None:
    write(tmp_path / "a[1].jsonl", GOOD)

    assert validate("a[1].jsonl").exit_code == 0


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstd.compress)])
def test_compressed_files_are_read(validate: Validate, tmp_path: Path, suffix: str, compress: Any) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress((GOOD + "\n").encode() * 3))

    (entry,) = files_of(validate(path, "--json", "--fix-out", "fixed"))

    assert (entry["valid"], entry["rows"]) == (True, 3)
    assert (tmp_path / "fixed" / "a.jsonl").read_text() == (GOOD + "\n") * 3


@pytest.mark.parametrize(
    ("name", "data", "code", "sentence"),
    [
        ("a.jsonl.gz", gzip.compress((GOOD + "\n").encode() * 1000)[:-20], 2, "cannot be decompressed to its end"),
        ("a.jsonl.gz", b"", 1, "is empty"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfdxx", 2, "cannot be decompressed to its end"),
        ("a.jsonl", b"", 1, "is empty"),
        ("a.jsonl", b"\x00" * 5000, 1, "none of its first 100 lines is a JSON object"),
        ("a.jsonl", gzip.compress(b"{}"), 1, "it looks like gzip"),
        ("a" * 300 + ".jsonl", None, 2, "File name too long"),
        ("*" * 300, None, 2, "no file matches"),
        ("a" * 249 + ".jsonl", GOOD.encode(), 0, "valid"),
    ],
)
def test_hostile_files_are_sentences(
    validate: Validate, tmp_path: Path, name: str, data: bytes | None, code: int, sentence: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)

    for level in ("quick", "deep"):
        result = validate(name, "--level", level)
        assert result.exit_code == code
        assert sentence in " ".join(result.output.split())
        assert "Traceback" not in result.output


def test_a_parquet_file_is_called_by_its_name_with_and_without_a_schema(validate: Validate, tmp_path: Path) -> None:
    pl.DataFrame({"messages": [GOOD] * 100}).write_parquet(tmp_path / "a.jsonl")

    result = validate("a.jsonl", "--json")
    assert (result.exit_code, files_of(result)[0]["valid"]) == (1, False)
    assert "it looks like Parquet" in files_of(result)[0]["error"]
    (entry,) = files_of(validate("a.jsonl", "--schema", "chat_sft_v1", "--json"))
    assert by_rule(entry).keys() >= {Rule.NOT_TEXT}


def test_a_folder_is_a_sentence_that_says_how_to_name_its_files(validate: Validate, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    result = validate("data/")

    assert result.exit_code == 2
    assert "data/ is a folder; name its files, as in 'data/*.jsonl'" in result.output


@pytest.mark.skipif(not UNREADABLE_FILE.exists(), reason="needs Linux")
@pytest.mark.parametrize("level", ["quick", "deep"])
def test_an_error_of_the_disk_is_a_sentence(validate: Validate, level: str) -> None:
    result = validate(UNREADABLE_FILE, "--level", level)

    assert result.exit_code == 2
    assert f"{UNREADABLE_FILE} cannot be read" in result.output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_sentence(validate: Validate, good: Path) -> None:
    good.chmod(0)

    assert "good.jsonl cannot be read: Permission denied" in validate("good.jsonl").output


def test_the_sidecar_beside_a_file_names_its_schema(validate: Validate, good: Path) -> None:
    sidecar = write(Path(f"{good}.meta.json"), '{"schema_id": "syllo_v1"}')
    assert files_of(validate(good, "--json"))[0]["schema"] == "syllo_v1"
    assert files_of(validate(good, "--json", "--schema", "chat_sft_v1"))[0]["schema"] == "chat_sft_v1"

    write(sidecar, '{"schema": "syllo_v1"}')
    result = validate(good, "--json")
    assert result.exit_code == 1
    assert "has unknown key schema" in files_of(result)[0]["error"]


def test_the_sidecar_beside_a_file_names_its_generator(
    validate: Validate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", *[GOOD] * 2)
    generators = {"manual": {"severities": {"exact_duplicate": "reject_row"}}}
    monkeypatch.setenv("GPU_ASSETS_VALIDATION__GENERATORS", json.dumps(generators))
    write(Path(f"{path}.meta.json"), '{"generator_id": "binary_api"}')
    assert by_rule(files_of(validate(path, "--json", "--level", "deep"))[0])["exact_duplicate"]["severity"] == "warn"

    write(Path(f"{path}.meta.json"), '{"generator_id": "manual"}')
    (entry,) = files_of(validate(path, "--json", "--level", "deep"))
    assert by_rule(entry)["exact_duplicate"]["severity"] == "reject_row"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--schema", "chat"), "--schema 'chat' is unknown; known schemas: chat_sft_v1, syllo_v1, completion_v1"),
        (("--level", "deepest"), "'deepest' is not one of 'quick', 'standard', 'deep'"),
        (("--tokenizer", "nowhere"), "--tokenizer nowhere is no folder"),
        (("--tokenizer", "nowhere", "--level", "quick"), "--tokenizer nowhere cannot be loaded"),
        (("--tokenizer", "."), "has no tokenizer.json"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_exit_code_2(
    validate: Validate, good: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    result = validate(good, *arguments)

    assert result.exit_code == 2
    assert sentence in " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A tokenizer with a control token of its own, and a template."""
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens(["<|stop|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


def test_a_model_folder_gives_tokenizer_and_template(validate: Validate, tmp_path: Path, model_folder: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD.replace("Nobody", "<|stop|>"), *[GOOD] * 20)
    assert by_rule(files_of(validate(path, "--json"))[0]) == {}

    (entry,) = files_of(validate(path, "--json", "--tokenizer", model_folder))
    assert by_rule(entry).keys() == {"special_token"}
    assert entry["stats"]["num_tokens"]["max"] > 0


def test_a_tokenizer_alone_is_enough_for_level_quick_only(
    validate: Validate, good: Path, tmp_path: Path, model_folder: Path
) -> None:
    (model_folder / "chat_template.jinja").unlink()
    path = write(tmp_path / "a.jsonl", GOOD.replace("Nobody", "<|stop|>"), *[GOOD] * 20)

    for named in (model_folder, model_folder / "tokenizer.json"):
        result = validate(path, "--json", "--level", "quick", "--tokenizer", named)
        assert by_rule(files_of(result)[0]).keys() == {"special_token"}
        result = validate(path, "--tokenizer", named)
        assert result.exit_code == 2
        assert "evel quick" in result.output


def test_a_broken_tokenizer_is_a_sentence(validate: Validate, good: Path, model_folder: Path) -> None:
    for name in ("tokenizer_config.json", "tokenizer.json"):
        (model_folder / name).write_text("{")
        result = validate(good, "--tokenizer", model_folder)
        assert result.exit_code == 2
        assert "cannot be loaded" in result.output


def test_the_configured_model_counts_the_tokens_and_is_missed_aloud(
    validate: Validate, good: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_ASSETS_MODEL_PATH", str(model_folder))
    (model_folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + "over and over again")
    longer = files_of(validate(good, "--json"))[0]["stats"]["num_tokens"]["max"]

    monkeypatch.setenv("GPU_ASSETS_MODEL_PATH", "not-there")
    result = validate(good, "--json")
    assert files_of(result)[0]["stats"]["num_tokens"]["max"] < longer
    assert "not-there is not there: tokens are counted with preset:tiny" in result.stderr


def test_reserved_problems_are_rejected_at_every_level(validate: Validate, tmp_path: Path) -> None:
    problem = next(problem for problem in binary.problems(1) if problem.held_out)
    row = {"messages": [{"role": "user", "content": binary.question(problem)}, {"role": "assistant", "content": "x"}]}
    path = write(tmp_path / "a.jsonl", json.dumps(row), *[GOOD] * 20)

    for level in ("quick", "standard", "deep"):
        assert "held_out" in by_rule(files_of(validate(path, "--json", "--level", level))[0])


def test_deep_compares_with_the_homes_history_and_leaves_it_alone(
    validate: Validate, workspace: Workspace, good: Path, tmp_path: Path
) -> None:
    renderer = Renderer(build_tokenizer(), CHAT_TEMPLATE, get_profile("plain"), "<|im_end|>")
    finder = DuplicateFinder(RowHistory.empty(), "")
    DataValidator(renderer).validate_file(good, DATASET_SPECS["chat_sft_v1"], "deep", duplicates=finder)
    with RowHistory.open(workspace.row_history, read_only=False) as history:
        history.replace(f"first-{hashlib.sha256(good.read_bytes()).hexdigest()[:8]}", finder.entries([1]))
    before = workspace.row_history.read_bytes()
    again = write(tmp_path / "again.jsonl", GOOD, GOOD.replace("Who is", "What was"))

    (entry,) = files_of(validate(again, "--json", "--level", "deep"))
    duplicate = by_rule(entry)["exact_duplicate"]
    assert duplicate["count"] == 1
    assert "line 1 of dataset first-" in duplicate["examples"][0]["seen"]
    copies = [good, good.with_name("copy.jsonl.gz"), good.with_name("copy.jsonl.zst")]
    copies[1].write_bytes(gzip.compress(good.read_bytes()))
    copies[2].write_bytes(zstd.compress(good.read_bytes()))
    for copy in copies:
        assert by_rule(files_of(validate(copy, "--json", "--level", "deep"))[0]) == {}, "its own rows"
    assert workspace.row_history.read_bytes() == before


def test_a_history_of_another_kind_is_a_sentence(validate: Validate, workspace: Workspace, good: Path) -> None:
    workspace.row_history.write_text("no database, but long enough to be looked at " * 10)
    result = validate(good, "--level", "deep")

    assert result.exit_code == 2
    assert "rows.sqlite cannot be opened" in result.output


def test_deep_looks_for_the_homes_evaluation_sets(validate: Validate, workspace: Workspace, tmp_path: Path) -> None:
    problem = binary.Problem("add", 1, 2)
    question = "Which of the rivers that flow through the old town freezes first in a winter without any wind at all?"
    item = EvaluationItem(problem.key, "add", 1, 2, question, binary.worked_answer(problem))
    freeze(EvaluationSet("prose", 1, (item,), hashlib.sha256(b"").hexdigest()), workspace)
    path = write(tmp_path / "a.jsonl", GOOD.replace("Who is there?", question), *[GOOD] * 20)
    (folder,) = workspace.evaluation.iterdir()
    items = (folder / "items.jsonl").read_bytes()
    (folder / "items.jsonl").write_bytes(items + b" ")
    assert validate(path, "--level", "deep").exit_code == 2

    (folder / "items.jsonl").write_bytes(items)
    (entry,) = files_of(validate(path, "--json", "--level", "deep"))
    assert by_rule(entry)["contamination"]["count"] == 1
    assert "paraphrase" in entry["stats"]["not_looked_for"]


def test_fix_out_keeps_accepted_lines_byte_for_byte_and_says_why_the_others_are_not(
    validate: Validate, tmp_path: Path
) -> None:
    crlf, last = GOOD.replace(", ", " ,  ").encode() + b"\r\n", GOOD.encode()
    data = b"\xef\xbb\xbf" + crlf + b"\n" + BAD.encode() + b"\n" + b"\xff\n" + last
    (tmp_path / "a.jsonl").write_bytes(data)

    for level in ("quick", "standard", "deep"):
        assert validate("a.jsonl", "--fix-out", "fixed", "--level", level).exit_code == 1
        assert (tmp_path / "fixed" / "a.jsonl").read_bytes() == crlf + last
        rejected = [
            json.loads(line) for line in (tmp_path / "fixed" / "a.jsonl.rejected.jsonl").read_text().splitlines()
        ]
        assert [(row["line"], row["reason"]) for row in rejected] == [(3, "role_order"), (4, "not_utf8")]
        assert rejected[0]["excerpt"] == BAD
        assert validate("fixed/a.jsonl", "--level", level).exit_code == 0
    assert (tmp_path / "a.jsonl").read_bytes() == data
    assert len(list((tmp_path / "fixed").iterdir())) == 2


def test_fix_out_of_a_clean_file_is_the_same_file_however_long(validate: Validate, tmp_path: Path) -> None:
    rows = [GOOD.replace("Nobody", f"Nobody {number}") for number in range(30_000)]
    path = write(tmp_path / "a.jsonl", *rows[:29_000], BAD, *rows[29_000:])

    result = validate(path, "--fix-out", "fixed", "--level", "quick")

    assert result.exit_code == 0
    assert (tmp_path / "fixed" / "a.jsonl").read_text() == "".join(row + "\n" for row in rows)


def test_fix_out_leaves_out_a_line_over_the_cap_and_nothing_of_its_neighbours(
    validate: Validate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_ASSETS_VALIDATION__MAX_ROW_BYTES", "1024")
    path = write(tmp_path / "a.jsonl", GOOD, "x" * 5_000_000, GOOD, "y" * 1025, GOOD)
    validate(path, "--fix-out", "fixed", "--level", "quick")

    assert (tmp_path / "fixed" / "a.jsonl").read_text() == (GOOD + "\n") * 3
    rejected = [json.loads(line) for line in (tmp_path / "fixed" / "a.jsonl.rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"], len(row["excerpt"])) for row in rejected] == [
        (2, "row_too_long", 200),
        (4, "row_too_long", 200),
    ]


def test_fix_out_never_overwrites_what_is_validated(validate: Validate, good: Path, tmp_path: Path) -> None:
    before = good.read_bytes()
    linked = tmp_path / "links"
    linked.symlink_to(tmp_path)
    write(tmp_path / "good.jsonl.rejected.jsonl", GOOD)

    for arguments in (
        (good, "--fix-out", "."),
        (good, "--fix-out", "links"),
        ("other/../good.jsonl.rejected.jsonl", good, "--fix-out", tmp_path),
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        result = validate(*arguments)
        assert result.exit_code == 2
        assert "would overwrite" in result.output
    assert good.read_bytes() == before


def test_fix_out_refuses_two_files_of_one_name(validate: Validate, tmp_path: Path) -> None:
    files = [write(tmp_path / folder / "a.jsonl", GOOD) for folder in ("x", "y")]
    result = validate(*files, "--fix-out", "fixed")

    assert result.exit_code == 2
    assert "would both go to fixed/a.jsonl" in result.output
    assert not (tmp_path / "fixed").exists()


def test_fix_out_of_an_unreadable_file_leaves_nothing(validate: Validate, tmp_path: Path) -> None:
    random = os.urandom(4_000_000).hex()
    rows = "".join(GOOD.replace("Nobody", random[at : at + 4000]) + "\n" for at in range(0, len(random), 4000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode(), 1)[:-20])
    result = validate("a.jsonl.gz", "--fix-out", "fixed", "--level", "quick", "--schema", "chat_sft_v1")

    assert result.exit_code == 2
    assert list((tmp_path / "fixed").iterdir()) == []


def test_fix_out_of_standard_input_has_a_name(validate: Validate, tmp_path: Path) -> None:
    validate("-", "--fix-out", "fixed", input=GOOD)

    assert (tmp_path / "fixed" / "stdin.jsonl").read_text() == GOOD


def test_a_folder_that_cannot_be_made_is_a_sentence(validate: Validate, good: Path, bad: Path) -> None:
    result = validate(good, "--fix-out", bad)

    assert result.exit_code == 2
    assert "cannot be written" in result.output


def test_a_long_file_shows_a_progress_bar_in_a_terminal_only(tmp_path: Path) -> None:
    path = write(tmp_path / "long.jsonl", *[GOOD] * (20 * 2**20 // len(GOOD) + 1))
    main_end, terminal = pty.openpty()
    shown: list[bytes] = []
    reader = threading.Thread(target=lambda: shown.extend(iter(lambda: read_terminal(main_end), b"")))
    reader.start()
    arguments = [sys.executable, "-m", "gpu_assets.cli", "validate", str(path), "--level", "quick"]
    done = subprocess.run(
        arguments,
        stdout=subprocess.PIPE,
        stderr=terminal,
        timeout=60,
        cwd=PROJECT_ROOT,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal)
    reader.join(timeout=30)
    os.close(main_end)

    assert done.returncode == 0
    assert b"MB" in b"".join(shown) and b"MB" not in done.stdout
    assert shell(str(path), "--level", "quick").stderr == b""


def test_the_documentation_lists_every_rule_with_its_severity_in_order() -> None:
    table = (PROJECT_ROOT / "docs" / "validating.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| (?:quick|standard|deep) \|.*\| ([^|]*)\|$", table, re.MULTILINE)

    assert [(rule, severity) for rule, severity, _ in listed] == [(rule, SEVERITIES[rule]) for rule in Rule]
    assert {rule for rule, _, setting in listed if "severity" in setting} == ADJUSTABLE


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # no writer is left
        return b""


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_standard_input_may_be_compressed(validate: Validate, compress: Callable[[bytes], bytes]) -> None:
    result = validate("-", "--json", input=compress(f"{GOOD}\n".encode() * 3))

    (entry,) = json.loads(result.stdout)["files"]
    assert (result.exit_code, entry["path"], entry["accepted"]) == (0, "-", 3)
