"""Runs and sweeps that were recorded when settings of methods were fields of `Config`."""

import json
import pathlib
import shutil

import pytest

from protonorm_jax.command import cli
from recorded import rows_of

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

RECORDED = pathlib.Path(__file__).parent.parent / "golden" / "recorded_before"


@pytest.fixture
def directory(tmp_path):
    """A copy, which says that it came of another version of jax: its bits are not demanded."""
    copied = shutil.copytree(RECORDED, tmp_path / "recorded")
    path = copied / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["versions"]["jax"] = "0.9.0"
    path.write_text(json.dumps(manifest))
    return copied


def test_a_run_is_compared_and_verified(directory, capsys):
    """With lost uploads and clients that do not train, which were counted in another way."""
    assert cli.main(["compare", str(directory / "run"), str(directory / "sweep")]) == 0
    printed = capsys.readouterr().out
    assert "0.391" in printed and ".342" in printed
    assert cli.main(["verify", str(directory / "run")]) == 0
    printed = capsys.readouterr().out
    assert "NOT" not in printed and "DIFFERENT" not in printed


def test_a_sweep_goes_on(directory, capsys):
    sweep = directory / "sweep"
    wanted = rows_of(sweep / "runs" / "0001")
    shutil.rmtree(sweep / "runs" / "0001")
    results = sweep / "results.jsonl"
    results.write_text(results.read_text().splitlines(keepends=True)[0])
    assert cli.main(["resume", str(sweep)]) == 0
    assert [json.loads(line)["method"] for line in results.read_text().splitlines()] == [
        "protonorm",
        "local",
    ]
    for row, before in zip(rows_of(sweep / "runs" / "0001"), wanted, strict=True):
        assert row["loss"] == pytest.approx(before["loss"], rel=1e-4)
        assert row["head_accuracy"] == pytest.approx(before["head_accuracy"], abs=0.02)
