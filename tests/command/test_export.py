"""The command `protonorm export`: both sides run on one split."""

import json

import numpy as np
import pytest

from protonorm_jax import config, data
from protonorm_jax.command import cli
from protonorm_jax.planning import deal

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

DEALT = ("--num-clients", "4", "--alpha", "0.5", "--seed", "3", "--min-samples", "5")


@pytest.fixture(scope="module")
def small_file(small_set, tmp_path_factory):
    return str(data.save_npz(small_set, tmp_path_factory.mktemp("data") / "small.npz"))


def complaint(capsys, *flags):
    """Runs a command that must fail; returns its one line on standard error."""
    try:
        code = cli.main(list(flags))
    except SystemExit as stop:
        code = stop.code
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1, (code, lines)
    return lines[0]


def test_each_client_has_what_a_run_deals_to_it(small_file, small_set, tmp_path, capsys):
    place = tmp_path / "new" / "folder"
    assert cli.main(["export", "--data", small_file, *DEALT, "--to", f"pfllib:{place}"]) == 0
    assert f"4 clients with 179 training and 61 test samples are in {place}" in (
        capsys.readouterr().out
    )
    chosen = config.Config(data=small_file, num_clients=4, alpha=0.5, seed=3, min_samples=5)
    (partition,) = deal.deal([chosen]).partitions
    again = data.load(f"pfllib:{place}")
    for one, other in ((partition[:2], again.dealt[:2]), (partition[2:], again.dealt[2:])):
        assert np.array_equal(one[1], other[1])
        for rows, own, count in zip(one[0], other[0], one[1], strict=True):
            rows, own = rows[:count], own[:count]
            assert np.array_equal(again.images[own], small_set.images[rows])
            assert np.array_equal(again.labels[own], small_set.labels[rows])
    assert again.num_classes == small_set.num_classes
    described = json.loads((place / "config.json").read_text())
    assert described["partition"] == "dir" and described["alpha"] == 0.5 and described["non_iid"]
    assert described["num_clients"] == 4 and not described["balance"]


def test_an_even_split_is_called_so(small_file, tmp_path):
    flags = ("--data", small_file, "--num-clients", "3", "--partition", "iid")
    assert cli.main(["export", *flags, "--to", f"pfllib:{tmp_path / 'a'}"]) == 0
    described = json.loads((tmp_path / "a" / "config.json").read_text())
    assert described["balance"] and not described["non_iid"] and "alpha" not in described
    assert described["partition"] is None


def test_the_settings_of_a_run_are_taken(small_file, tmp_path):
    chosen = config.Config(data=small_file, num_clients=4, alpha=0.5, seed=3, min_samples=5)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(chosen.to_dict()))
    for flags, name in ((("--config", str(file)), "a"), (("--data", small_file, *DEALT), "b")):
        assert cli.main(["export", *flags, "--to", f"pfllib:{tmp_path / name}"]) == 0
    for path in (tmp_path / "a").rglob("*.npz"):
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--to", "there"), "--to must be pfllib:DIR, got 'there'"),
        (("--to", "zip:there"), "--to must be pfllib:DIR, got 'zip:there'"),
        (("--to", "pfllib:"), "--to must be pfllib:DIR, got 'pfllib:'"),
        ((), "the following arguments are required: --to"),
        (("--to", "pfllib:full"), "full must be a new or empty folder, got one that is taken"),
        (("--to", "pfllib:there", "--num-clients", "0"), "num_clients must be >= 1"),
        (("--to", "pfllib:there", "--data", "npz:none"), "none must exist"),
        (("--to", "pfllib:there", "--rounds", "3"), "unrecognized arguments: --rounds"),
        (("--to", "pfllib:full/mine/there"), "must be"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    assert words in complaint(capsys, "export", *flags)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "mine"]


@pytest.mark.large
def test_a_run_of_the_folder_has_equal_bits(small_file, tmp_path):
    """Who is where in the data set differs; what each client sees must not."""
    flags = ("--family", "mlp", "--feature-dim", "8", "--devices", "1", "--rounds", "2")
    one, other, folder = tmp_path / "one", tmp_path / "other", tmp_path / "folder"
    assert cli.main(["run", "--data", small_file, *DEALT, *flags, "--out", str(one)]) == 0
    chosen = ("--config", str(one / "config.json"))
    assert cli.main(["export", *chosen, "--to", f"pfllib:{folder}"]) == 0
    seed = ("--seed", "3")
    assert cli.main(["run", "--data", f"pfllib:{folder}", *seed, *flags, "--out", str(other)]) == 0

    def rows(directory):
        lines = (directory / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]

    assert len(rows(one)) == 2 and rows(one) == rows(other)
    with np.load(one / "prototypes.npz") as arrays, np.load(other / "prototypes.npz") as again:
        for name in arrays:
            assert np.array_equal(arrays[name], again[name])
