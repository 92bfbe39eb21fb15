"""A method of a user's own, in a file: run, swept, resumed, verified; asked for when missing."""

import json
import pathlib

import pytest

from protonorm_jax import data, methods
from protonorm_jax.command import cli

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

FAST = ("--family", "mlp", "--num-clients", "4", "--feature-dim", "8", "--devices", "1")
README = (pathlib.Path(__file__).parent.parent.parent / "README.md").read_text()
FILE = next(block for block in README.split("```python\n") if "METHODS[" in block).split("```")[0]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    yield path
    methods.METHODS.pop("headless", None)


@pytest.fixture(scope="module")
def small_file(small_set, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "small.npz"
    data.save_npz(small_set, path)
    return str(path)


def test_a_file_is_run_swept_resumed_and_verified(file, small_file, tmp_path, capsys):
    own = ("--methods", str(file))
    common = (*own, "--data", small_file, *FAST, "--rounds", "2", "--method", "headless")
    run, sweep = str(tmp_path / "run"), tmp_path / "sweep"
    assert cli.main(["methods", "headless", *own]) == 0
    assert "weight of the distance" in capsys.readouterr().out
    assert cli.main(["run", *common, "--pull", "3", "--out", run]) == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["method_settings"]["pull"] == 3.0
    assert written["methods_file"]["path"] == str(file)
    assert cli.main(["sweep", *common, "--grid", "pull=1,3", "--out", str(sweep)]) == 0
    rows = [json.loads(line) for line in (sweep / "results.jsonl").read_text().splitlines()]
    assert [row["pull"] for row in rows] == [1.0, 3.0] and rows[0]["loss"] != rows[1]["loss"]

    capsys.readouterr()
    assert cli.main(["verify", run, *own]) == 0
    assert "reproduced bit by bit" in capsys.readouterr().out
    (tmp_path / "run" / "summary.json").unlink()
    assert cli.main(["resume", run, *own]) == 0 and cli.main(["resume", str(sweep), *own]) == 0

    methods.METHODS.pop("headless")
    capsys.readouterr()
    for command in (["verify", run], ["resume", run], ["resume", str(sweep)]):
        assert cli.main(command) == 2
        assert f"--methods must be given for method headless, which came from {file}" in (
            capsys.readouterr().err
        )
    config = str(tmp_path / "run" / "config.json")
    assert cli.main(["run", "--config", config, "--out", str(tmp_path / "new")]) == 2
    assert "--methods must be given" in capsys.readouterr().err


def test_another_content_is_refused_by_resume_and_named_by_verify(
    file, small_file, tmp_path, capsys
):
    run = tmp_path / "run"
    own = ("--methods", str(file))
    common = ("--data", small_file, *FAST, "--rounds", "1", "--method", "headless")
    assert cli.main(["run", *own, *common, "--out", str(run)]) == 0
    file.write_text(FILE + "# another content\n")
    capsys.readouterr()
    assert cli.main(["verify", str(run), *own]) == 0
    assert "not as recorded: file of methods" in capsys.readouterr().out
    (run / "summary.json").unlink()
    assert cli.main(["resume", str(run), *own]) == 2
    assert "--methods must be the file of the run, SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "--methods must put a method into METHODS, got none"),
        ("1 / 0", "--methods must run without an error, got ZeroDivisionError"),
        ("def broken(:", "--methods must run without an error, got SyntaxError"),
        (
            "from protonorm_jax.methods import METHODS\nMETHODS['headless'] = lambda **sizes: None",
            "METHODS['headless'] must be methods.Row(factory, Settings)",
        ),
        (
            "from protonorm_jax import methods, settings\n"
            "@settings.group\n"
            "class Settings:\n"
            "    rounds: int = settings.setting(1, 'mine')\n"
            "methods.METHODS['headless'] = methods.Row(lambda *_: None, Settings)",
            "headless.rounds must have another name, got one that all methods have",
        ),
    ],
)
def test_a_mistake_in_the_file_is_one_line(file, text, words, tmp_path, capsys):
    file.write_text(text)
    out = tmp_path / "run"
    assert cli.main(["run", "--methods", str(file), *FAST, "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and words in lines[0]
    assert not out.exists()
