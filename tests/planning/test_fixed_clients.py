"""Clients that the data bring along: kept as they are, and nothing may contradict them."""

import json

import numpy as np
import pytest

import protonorm_jax
from protonorm_jax import data, partition
from protonorm_jax.command import cli
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning.deal import deal
from protonorm_jax.running import sweep
from recorded import rows_of

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

SETTINGS = {"method": "local", "family": "mlp", "feature_dim": 8, "rounds": 2, "devices": 1}
FLAGS = [
    *("--data", "pfllib:somewhere", "--method", "local", "--family", "mlp"),
    *("--feature-dim", "8", "--rounds", "2", "--devices", "1"),
]


def dealt(small_set, sizes=((7, 3), (50, 0), (2, 31))):
    """The set with three clients of these numbers of training and test samples."""
    order = np.random.default_rng(3).permutation(len(small_set.labels))
    pieces = np.split(order, np.cumsum(np.reshape(sizes, -1)))[:-1]
    return small_set._replace(dealt=partition.pack(pieces[::2], pieces[1::2]))


@pytest.fixture
def somewhere(small_set, monkeypatch):
    """A source of such data, as the folders of other simulators are."""
    fixed = dealt(small_set)
    monkeypatch.setitem(data.SOURCES, "pfllib", lambda argument, **places: fixed)
    return fixed


@pytest.mark.parametrize("given", [{}, {"num_clients": 3}, {"partition": "data"}, {"seed": 7}])
def test_clients_and_their_division_are_kept(given, small_set, somewhere):
    for config, dataset in (
        (Config(data="pfllib:somewhere", **SETTINGS, **given), None),
        (Config(**SETTINGS, **given), somewhere),
    ):
        found = deal([config], dataset)
        assert (found.config.num_clients, found.config.partition) == (3, "data")
        for one, other in zip(found.partitions[0], somewhere.dealt, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_clients", 5),
        ("num_clients", 19),
        ("partition", "iid"),
        ("partition", "file:other.json"),
        ("partition", "groups:owners.csv"),
        ("alpha", 0.5),
        ("classes_per_client", 3),
        ("min_samples", 1),
        ("train_fraction", 0.9),
    ],
)
def test_what_contradicts_is_refused(name, value, somewhere, capsys, tmp_path):
    for config in (
        lambda: Config(data="pfllib:somewhere", **{name: value}),
        lambda: Config(**{name: value}),
    ):
        with pytest.raises(UsageError) as caught:
            deal([config()], somewhere)
        message = str(caught.value)
        assert message.startswith(f"Config.{name} must be left out") and repr(value) in message
    out = tmp_path / "run"
    flag = f"--{name.replace('_', '-')}"
    assert cli.main(["run", *FLAGS, flag, str(value), "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"protonorm: Config.{name} must be left out")
    assert not out.exists()
    grid = f"{name}={value}"
    assert cli.main(["sweep", *FLAGS, "--grid", grid, "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"protonorm: Config.{name} must be left out")
    assert not out.exists()


@pytest.mark.parametrize("flag", ["--alpha=0.1", "--train-fraction=0.75", "--min-samples=10"])
def test_a_flag_contradicts_with_its_default_too(flag, somewhere, capsys):
    assert cli.main(["run", *FLAGS, flag, "--dry-run"]) == 2
    assert " must be left out for pfllib:somewhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sizes", "change", "message"),
    [
        (((3, 2), (0, 4)), None, "train of client 1 must hold at least one sample, got none"),
        (((3, 2), (4, 4)), (1, 0, 240), "train of client 1 must hold indices in [0, 240), got 240"),
        (((3, 2), (4, 4)), (1, 0, -1), "train of client 1 must hold indices in [0, 240), got -1"),
    ],
)
def test_clients_that_cannot_be_are_refused(sizes, change, message, small_set):
    broken = dealt(small_set, sizes)
    if change:
        broken.dealt.train[change[:2]] = change[2]
    with pytest.raises(UsageError) as caught:
        deal([Config(**SETTINGS)], broken)
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize("to", [("train", 0), ("train", 1), ("test", 0), ("test", 1)])
def test_a_sample_in_two_places_is_refused(to, small_set):
    broken = dealt(small_set, ((3, 2), (4, 4)))
    rows = getattr(broken.dealt, to[0])
    rows[to[1], 1] = broken.dealt.train[0, 0]
    with pytest.raises(UsageError, match="a sample once among all clients, got "):
        deal([Config(**SETTINGS)], broken)


def test_run_resume_verify_and_sweep_keep_them(somewhere, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["run", *FLAGS, "--out", str(run)]) == 0
    recorded = json.loads((run / "config.json").read_text())
    assert (recorded["num_clients"], recorded["partition"]) == (3, "data")
    clients = json.loads((run / "manifest.json").read_text())["clients"]
    assert [one["train_samples"] for one in clients] == [7, 50, 2]
    assert [one["test_samples"] for one in clients] == [3, 0, 31]
    rows = rows_of(run)
    assert "3 clients" in capsys.readouterr().out
    assert cli.main(["verify", str(run)]) == 0
    assert "reproduced bit by bit" in capsys.readouterr().out
    (run / "summary.json").unlink()
    assert cli.main(["resume", str(run)]) == 0
    assert rows_of(run) == rows
    again = tmp_path / "again"
    config = str(run / "config.json")
    assert cli.main(["run", "--config", config, "--out", str(again)]) == 0
    assert rows_of(again) == rows
    many = tmp_path / "many"
    assert cli.main(["sweep", *FLAGS, "--grid", "learning_rate=0.01,0.1", "--out", str(many)]) == 0
    assert rows_of(many / "runs" / "0000") == rows
    (many / "results.jsonl").write_text("")
    assert cli.main(["resume", str(many)]) == 0
    assert rows_of(many / "runs" / "0000") == rows


def test_from_python_too(somewhere, tmp_path):
    history = protonorm_jax.run(Config(**SETTINGS), dataset=somewhere)
    assert history.config.num_clients == 3
    grid = {"learning_rate": [0.01]}
    config = Config(data="pfllib:somewhere", **SETTINGS)
    (row,) = sweep.run(config, grid, tmp_path / "s")
    assert row["head_accuracy"] == history.rows[-1]["head_accuracy"]
    with pytest.raises(UsageError, match=r"Config.alpha must be left out for pfllib:somewhere, "):
        sweep.run(config, {"alpha": [0.1, 0.5]}, tmp_path / "t", dataset=somewhere)


def test_another_source_decides_anew():
    config = Config(data="pfllib:somewhere", rounds=3).replace(num_clients=7)
    plain = config.replace(data="digits")
    assert (plain.partition, plain.num_clients) == ("dirichlet", 20)
    back = plain.replace(data="pfllib:elsewhere")
    assert (back.partition, back.num_clients) == ("data", 0)
    assert Config(num_clients=7).replace(data="pfllib:x").num_clients == 7
    assert Config(alpha=0.3).replace(num_clients=4).alpha == 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition": "data"}, "must be one of dirichlet, .* for digits, .*got 'data'"),
        ({"num_clients": 0}, "Config.num_clients must be >= 1, got 0"),
        ({"partition": "dirichlt"}, r"got 'dirichlt' \(did you mean 'dirichlet'\?\)"),
        ({"partition": "file:"}, "must be one of dirichlet, .*got 'file:'"),
    ],
)
def test_clients_of_nowhere_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        deal([Config(**SETTINGS, **settings)])
