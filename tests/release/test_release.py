"""What is published: the package's files, its requirements, and what surrounds them."""

import email.parser
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import protonorm_jax

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def requirements():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(text) for group in groups for text in group]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_pinned_is_allowed_and_what_a_user_installs_has_a_least_version():
    pins = {plain(name): version for name, version in PINS.items()}
    for one in requirements():
        if plain(one.name) in pins:
            assert Version(pins[plain(one.name)]) in one.specifier, one
    least = [one for text in PROJECT["dependencies"] if (one := Requirement(text))]
    assert [one.name for one in least if ">=" not in str(one.specifier)] == []


def test_what_is_installed_here_is_what_is_pinned():
    """Otherwise other versions are tested than those that users of `make` get."""
    for name, version in PINS.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # Of an extra that is not installed.
        assert found == version, name


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == protonorm_jax.__version__
    assert citation["license"] == PROJECT["license"]
    for name in ("message", "title", "authors", "date-released"):
        assert citation[name]
    heading = f"## {citation['version']} - {citation['date-released']}"
    assert heading in (ROOT / "CHANGELOG.md").read_text().splitlines()


def test_hooks_before_a_commit_are_those_of_make_lint():
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wanted = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == wanted


def test_workflows_call_what_there_is():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    versions = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if "Python ::" in one]
    called = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            matrix = job.get("strategy", {}).get("matrix", {})
            assert matrix.get("python", versions) == versions, path
            called |= {step["run"] for step in job["steps"] if "run" in step}
    made = {command.removeprefix("make ") for command in called if command.startswith("make ")}
    assert made == {"lint", "test", "docs", "dist"} and made <= set(targets)


def built(folder, *flags):
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), *flags]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return folder


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(tmp_path):
    (wheel,) = built(tmp_path, "--wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        (described,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = email.parser.HeaderParser().parsestr(archive.read(described).decode())
    listed = subprocess.run(
        ["git", "ls-files", "src"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not in a git checkout")
    assert sorted(names) == sorted(name.removeprefix("src/") for name in listed)
    assert "protonorm_jax/py.typed" in names
    assert metadata["Version"] == protonorm_jax.__version__
    assert metadata["License-Expression"] == "Apache-2.0"


@pytest.mark.large
@pytest.mark.timeout(1800)
def test_the_wheel_runs_in_an_empty_environment(tmp_path):
    """Of `DIST`, if that is set, as `make dist` does; with the pinned versions."""
    made = pathlib.Path(os.environ["DIST"]) if "DIST" in os.environ else built(tmp_path / "dist")
    (wheel,) = made.glob("*.whl")
    assert list(made.glob("*.tar.gz"))
    place = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def run(program, *arguments):
        return subprocess.run(
            [place / "bin" / program, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    run("pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    assert protonorm_jax.__version__ in run("protonorm", "--version")
    run("protonorm", "run", "--family", "mlp", "--num-clients", 3, "--rounds", 2, "--out", "run")
    assert "reproduced bit by bit" in run("protonorm", "verify", "run")
    run("protonorm", "report", "run", "--out", "page.html")
    assert str(place) in run("python", "-c", "import protonorm_jax; print(protonorm_jax.__file__)")
