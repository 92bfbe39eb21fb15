"""Other data, other shares, other flags of jax: nothing is mixed, and what differs is named."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from test_checkpoint import Watcher, terminate

from protonorm_jax import config, data, settings
from protonorm_jax.command import cli
from protonorm_jax.running import checkpoint, conditions, job, sweep
from protonorm_jax.types import Partition
from recorded import SMALL, assert_same, rows_of, without_times

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

FEW = SMALL.replace(family="mlp", num_clients=4, feature_dim=8, rounds=6, data="sets/small.npz")


@pytest.fixture(scope="module")
def home(small_set, tmp_path_factory):
    """A folder with data, a run of them that was stopped after three rounds, and a whole one.

    All were started in it, with a relative path to the data.
    """
    home = tmp_path_factory.mktemp("home")
    (home / "sets").mkdir()
    data.save_npz(small_set, home / "sets" / "small.npz")
    before = os.getcwd()
    os.chdir(home)
    try:
        job.run(FEW, home / "whole", display=Watcher())
        job.run(FEW, home / "stopped", display=Watcher(3, terminate))
        watcher, calls = Watcher(), []
        watcher.add = lambda step: (calls.append(1), len(calls) == 8 and terminate())
        planned = sweep.plan(FEW, sweep.expand(FEW, {"seed": [0, 1]}), runs_per_program=1)
        sweep.train(planned, home / "sweep", display=watcher)
        sweep.run(FEW, {"seed": [0, 1]}, home / "whole sweep", runs_per_program=1)
    finally:
        os.chdir(before)
    return home


@pytest.fixture
def place(home, tmp_path, monkeypatch):
    """A copy, and the folder elsewhere that commands are given in."""
    copy = shutil.copytree(home, tmp_path / "home")
    for path in (copy / "stopped" / "config.json", copy / "whole" / "config.json"):
        path.write_text(path.read_text().replace(str(home), str(copy)))
    for path in copy.glob("*sweep/sweep.json"):
        path.write_text(path.read_text().replace(str(home), str(copy)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return copy


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(capsys, *command):
    capsys.readouterr()
    assert cli.main([*map(str, command)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def change(place, small_set, kind):
    """Puts other data in the place of those recorded; returns what they were."""
    path = place / "sets" / "small.npz"
    kept = path.read_bytes()
    images, labels = small_set.images.copy(), small_set.labels.copy()
    if kind == "pixel":
        images[7, 3, 3, 0] ^= 1
    elif kind == "label":
        labels[[3, 4]] = labels[[4, 3]]
    elif kind == "order":
        images, labels = images[::-1], labels[::-1]
    else:  # Too few for the clients, of which the complaint must not be.
        images, labels = images[:8], labels[:8]
    data.save_npz(small_set._replace(images=images, labels=labels), path)
    return kept


@pytest.mark.parametrize("kind", ["pixel", "label", "order", "few"])
def test_other_data_are_refused_and_nothing_is_lost(place, home, small_set, capsys, kind):
    path = place / "sets" / "small.npz"
    kept = change(place, small_set, kind)
    for name in ("stopped", "sweep"):
        before = contents(place / name)
        line = refusal(capsys, "resume", place / name)
        assert line.startswith("protonorm: data must be those that") and "got other ones in" in line
        assert "'sets/small.npz', SHA-256" in line and "remove" not in line
        assert contents(place / name) == before
    assert cli.main(["verify", str(place / "whole")]) == 1
    said = capsys.readouterr().out
    assert "not as recorded: the data differ: SHA-256" in said
    assert "NOT reproduced: the data differ" in said and "round 1" not in said
    path.write_bytes(kept)
    os.utime(path, (1, 1))
    if kind == "pixel":
        assert cli.main(["resume", str(place / "stopped")]) == 0
        assert "going on after round 3" in capsys.readouterr().out
        assert_same(home / "whole", place / "stopped")
        assert cli.main(["resume", str(place / "sweep")]) == 0
        assert without_times(place / "sweep" / "results.jsonl") == without_times(
            home / "whole sweep" / "results.jsonl"
        )
        assert cli.main(["verify", str(place / "whole")]) == 0


def test_the_checkpoint_knows_its_data_too(place, capsys):
    """A manifest that came from another run does not hide that they are others."""
    path = place / "stopped" / "manifest.json"
    manifest = json.loads(path.read_text())
    saved = checkpoint.latest(place / "stopped", [[job.settings_of(place / "stopped")]])
    assert saved.data_digest == manifest["data_digest"]
    assert saved.partition_digests == [manifest["partition_digest"]]
    path.write_text(json.dumps(manifest | {"data_digest": "0" * 64}))
    assert f"SHA-256 {'0' * 64}, got other ones" in refusal(capsys, "resume", place / "stopped")
    path.write_text(json.dumps(manifest | {"partition_digest": "1" * 64}))
    line = refusal(capsys, "resume", place / "stopped")
    assert line.startswith("protonorm: partition must be the one that") and "1" * 64 in line
    path.write_text(json.dumps(manifest))


@pytest.mark.large
def test_records_from_before_are_taken(place, home, capsys):
    """They name neither data nor flags."""
    for name in ("stopped", "whole"):
        path = place / name / "manifest.json"
        manifest = json.loads(path.read_text())
        for later in ("data_digest", "partition_digest", "flags", "majority_accuracy"):
            del manifest[later]
        path.write_text(json.dumps(manifest))
    assert cli.main(["resume", str(place / "stopped")]) == 0
    assert_same(home / "whole", place / "stopped")
    assert cli.main(["verify", str(place / "whole")]) == 0
    assert "reproduced bit by bit" in capsys.readouterr().out


def test_relative_paths_are_of_the_folder_they_were_given_in(place, home, capsys):
    """Also in the config of a run that is run anew; the settings and their digest stay."""
    flags = ("--config", str(place / "whole" / "config.json"), "--out", "anew")
    assert cli.main(["run", *flags]) == 0
    assert_same(home / "whole", place.parent / "elsewhere" / "anew")
    recorded = json.loads((place.parent / "elsewhere" / "anew" / "config.json").read_text())
    assert recorded["data"] == "sets/small.npz"
    assert recorded["relative_to"] == {"data": str(place)}
    first, second = (
        json.loads((folder / "manifest.json").read_text())
        for folder in (home / "whole", place.parent / "elsewhere" / "anew")
    )
    for name in ("config_digest", "data_digest", "partition_digest", "flags"):
        assert first[name] == second[name]
    # What is not there any more is looked for here.
    shutil.move(place / "sets", "sets")
    capsys.readouterr()
    assert cli.main(["verify", str(place / "whole")]) == 0
    shutil.move("sets", "other")
    assert "No such file" in refusal(capsys, "verify", place / "whole") or True


@pytest.mark.parametrize(
    ("kind", "value", "path"),
    [
        ("source", "digits", ""),
        ("source", "tfds:mnist", ""),
        ("source", "small.npz", "small.npz"),
        ("source", "sets/one", "sets/one"),
        ("source", "npz:a", "a"),
        ("source", "idx:folder/train", "folder/train"),
        ("source", "/absolute/x.npz", ""),
        ("source", "folder:/absolute", ""),
        ("source", "npz:~/x", ""),
        ("file", "groups", "groups"),
        ("file", "a:b", "a:b"),
    ],
)
def test_which_part_of_a_setting_is_a_relative_path(kind, value, path, tmp_path):
    assert settings.relative_path(kind, value) == path
    based = settings.RelativePath(value, str(tmp_path))
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    if path:
        assert settings.located(kind, based) == value.removesuffix(path) + str(tmp_path / path)
    else:
        assert settings.located(kind, based) == value
    assert settings.located(kind, value) == value  # As given now.


def test_equal_settings_have_equal_digests_wherever_they_are(tmp_path):
    plain = config.Config(data="a.npz")
    values = plain.to_dict() | {"relative_to": {"data": str(tmp_path), "foreign": 3}}
    based = config.from_recorded(values)
    assert based == plain and based.digest() == plain.digest() and hash(based) == hash(plain)
    assert based.replace(rounds=3).relative_to() == {"data": str(tmp_path)}
    assert plain.relative_to() == {"data": os.getcwd()}
    assert config.Config().relative_to() == {}


def test_flags_that_change_bits_are_refused_by_name(place, capsys, monkeypatch):
    recorded = json.loads((place / "stopped" / "manifest.json").read_text())["flags"]
    assert recorded["jax_enable_x64"] is False and recorded["jax_threefry_partitionable"] is True
    assert recorded["jax_default_prng_impl"] == "threefry2x32" and recorded["XLA_FLAGS"] == ""
    for name, value in (
        ("jax_threefry_partitionable", False),
        ("jax_enable_x64", True),
        ("jax_default_matmul_precision", "float32"),
        ("jax_default_prng_impl", "rbg"),
    ):
        now = getattr(jax.config, name)
        jax.config.update(name, value)
        try:
            for folder in ("stopped", "sweep"):
                line = refusal(capsys, "resume", place / folder)
                wanted = f"must be {now!r}, as when '{place / folder}' was recorded, got {value!r}"
                assert line == f"protonorm: {name} (in the environment {name.upper()}) {wanted}"
        finally:
            jax.config.update(name, now)
    flags = os.environ["XLA_FLAGS"]
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_cpu_enable_fast_math=true")
    line = refusal(capsys, "resume", place / "stopped")
    assert "XLA_FLAGS must be '', as when" in line and "got '--xla_cpu_enable_fast_math" in line
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_dump_to=dumped")
    assert conditions.changed_flags({"flags": recorded}) == {}


@pytest.mark.large
def test_verify_names_the_flags(place, capsys):
    jax.config.update("jax_threefry_partitionable", False)
    try:
        assert cli.main(["verify", str(place / "whole")]) == 1
    finally:
        jax.config.update("jax_threefry_partitionable", True)
    said = capsys.readouterr().out
    assert "not as recorded: jax_threefry_partitionable True -> False" in said
    # Manifests from before had this one alone.
    before = {"key": {"partitionable": False}}
    assert conditions.changed_flags(before) == {"jax_threefry_partitionable": (False, True)}
    assert conditions.changed_flags({}) == {}


def test_digests_are_of_contents(small_set):
    """Not of how they lie in memory, nor of what pads the rows of a partition."""
    digest = conditions.data_digest(small_set)
    turned = np.asfortranarray(small_set.images)
    wide = small_set._replace(images=turned, labels=small_set.labels.astype(np.int64), name="x")
    assert conditions.data_digest(wide) == digest
    flat = small_set._replace(images=small_set.images.reshape(240, 4, 16, 1))
    assert conditions.data_digest(flat) != digest
    part = Partition(
        np.array([[3, 1, 0], [2, 0, 0]]), np.array([2, 1]), np.array([[4], [0]]), np.array([1, 0])
    )
    digest = conditions.partition_digest(part)
    padded = part._replace(train=np.array([[3, 1, 9, 9], [2, 9, 9, 9]], np.int32))
    assert conditions.partition_digest(padded) == digest
    for other in (
        part._replace(train=np.array([[1, 3, 0], [2, 0, 0]])),
        part._replace(train_count=np.array([3, 1])),
        part._replace(test_count=np.array([1, 1])),
        part._replace(train=np.array([[3, 2, 0], [1, 0, 0]])),
    ):
        assert conditions.partition_digest(other) != digest


def test_rows_are_of_one_set(home):
    assert rows_of(home / "stopped") == rows_of(home / "whole")[:3]
