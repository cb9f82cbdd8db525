"""`gpu-assets init-model` does what its help says with each kind of folder."""

from pathlib import Path

from typer.testing import CliRunner

from gpu_assets.cli.main import app
from resources.artifacts import weights_sha256


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["init-model", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_a_folder_is_new_or_empty_or_holds_a_model_of_ours_which_is_replaced_as_the_help_says(tmp_path: Path) -> None:
    folder, foreign = tmp_path / "model", tmp_path / "foreign"
    folder.mkdir()
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    assert run("--out", str(folder), "--seed", "1")[0] == 0
    first = weights_sha256(folder)
    assert run("--out", str(folder), "--seed", "2")[0] == 0
    assert weights_sha256(folder) != first
    assert run("--out", str(foreign))[0] != 0
    assert [path.name for path in foreign.iterdir()] == ["notes.txt"]
    assert "Folder to write: new, empty, or a model of ours, which is replaced." in run("--help")[1]
