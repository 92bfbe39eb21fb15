"""The commands of the README and of the pages are such as our parser takes."""

import importlib.util
import json
import re
import shlex
import tomllib

import pytest

from documents import PAGES, ROOT, blocks, lines
from protonorm_jax import config, methods
from protonorm_jax.command import asked, cli, commands, flags

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

SMALLER = {
    "--rounds": "2",
    "--num-clients": "3",
    "--checkpoint-every": "1",
    "--seeds": "1",
}
PLACES = {"--num-processes": "2", "--process-id": "0", "--seeds": "1"}
SMALL = ("--family", "mlp", "--num-clients", "3", "--feature-dim", "8", "--devices", "1")
COMMANDS = [
    pytest.param(page, line, id=f"{page}: {line[:60]}")
    for page in PAGES
    for block in blocks(page, "sh")
    for line in lines(block.code)
]
RUN = [(page, block.code) for page in PAGES for block in blocks(page, "sh") if block.mark == "run"]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """The files that commands name, and what a Slurm array sets."""
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for block in blocks(page):
            if block.mark.startswith("file "):
                (tmp_path / block.mark.removeprefix("file ")).write_text(block.code)
    (tmp_path / "runs/cifar10").mkdir(parents=True)
    recorded = json.dumps(config.Config().to_dict())
    (tmp_path / "runs/cifar10/config.json").write_text(recorded)
    for name, value in (("ID", "2"), ("MIN", "1"), ("COUNT", "4")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    known = dict(methods.METHODS)
    yield
    for name in [name for name in methods.METHODS if name not in known]:
        del methods.METHODS[name]


def words_of(line):
    """The words of a command, from the program's name on."""
    words = shlex.split(line, comments=True)
    inner = [word for word in words if word.startswith("--command=")]
    if inner:
        words = shlex.split(inner[0].removeprefix("--command="))
    if ">" in words:
        words = words[: words.index(">")]
    return words[words.index("protonorm") :] if "protonorm" in words else words


def smaller(given, numbers):
    """The words with other numbers behind flags that are there."""
    pairs = zip([None, *given], given, strict=False)
    return [numbers.get(flag, word) for flag, word in pairs]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_is_one(page, line):
    program, *given = words_of(line.replace("[flags] ", ""))
    given = smaller(given, PLACES)
    if program == "protonorm":
        try:
            parsed = commands.parse(given)
        except SystemExit as stop:
            assert stop.code == 0 and "--help" in given
            return
        if given[0] in ("sweep", "compile"):
            asked.read(parsed)
        elif given[0] == "run":
            flags.chosen(parsed)
    elif program == "make":
        targets = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{one}:", targets, re.M) for one in given)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        (named,) = given[1:]
        found = re.fullmatch(r"(?:protonorm_jax|\.)(?:\[(\w+)\])?", named)
        assert found and (found[1] is None or found[1] in extras["optional-dependencies"])
    else:
        assert program == "python" and given[0] == "-m"
        assert importlib.util.find_spec(given[1])


@pytest.mark.large
@pytest.mark.parametrize(("page", "code"), RUN, ids=[page for page, _ in RUN])
def test_commands_run_one_after_the_other(page, code, capsys):
    for line in lines(code):
        _, *given = words_of(line)
        given = smaller(given, SMALLER)
        if given[0] in ("run", "sweep"):
            given += SMALL
        assert cli.main(given) == 0, capsys.readouterr().err
