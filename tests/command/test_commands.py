"""The table of commands, and what a process imports for one of them."""

import subprocess
import sys

import pytest

from protonorm_jax.command import cli, commands

HEAVY = {"jax", "flax", "optax", "chex", "matplotlib", "orbax", "pandas", "pyarrow"}
HEAVY |= {"scipy", "sklearn", "tensorflow_datasets"}
FEW_NEED = HEAVY - {"jax", "flax", "optax", "chex"}


def imported(code, *words):
    """The packages among `HEAVY` that a process has imported once it has run some code."""
    code = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    command = (sys.executable, "-c", code, *map(str, words))
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return {name for name in found.stderr.split() if "." not in name} & HEAVY


CALL = """
from protonorm_jax.command import cli
try:
    assert cli.main(sys.argv[1:]) == 0
except SystemExit as end:
    assert not end.code
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a finished run leaves that tables are made of."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    directory.mkdir()
    (directory / "config.json").write_text(
        '{"method": "local", "data": "digits", "seed": 0, "num_clients": 2, "rounds": 1}'
    )
    (directory / "metrics.jsonl").write_text('{"round": 1, "head_accuracy": 0.5}\n')
    (directory / "summary.json").write_text(
        '{"method": "local", "status": "finished", "rounds": 1, "head_accuracy": 0.5}'
    )
    return directory


LIGHT = [name for name, row in commands.COMMANDS.items() if not row.uses_jax]


@pytest.mark.parametrize("words", [["--help"], *LIGHT], ids=lambda words: "".join(words))
def test_what_answers_at_once_imports_nothing_heavy(words, run):
    words = words if isinstance(words, list) else [words, run]
    assert imported(CALL, *words) == set()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import protonorm_jax; protonorm_jax.run", marks=pytest.mark.large),
        "from protonorm_jax.command import commands; commands.make_parser('sweep')",
    ],
)
def test_training_imports_nothing_that_it_does_not_use(code):
    assert not imported(code) & FEW_NEED


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_can_be_parsed_and_has_help(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    assert commands.COMMANDS[name].description[:40] in capsys.readouterr().out


def test_a_command_that_there_is_not(capsys):
    assert cli.main(["comprae"]) == 2
    assert "got 'comprae' (did you mean 'compare'?)" in capsys.readouterr().err
