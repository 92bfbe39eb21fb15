"""Recorded runs as records, chosen and sorted, and as a table of pandas."""

import json
import subprocess
import sys

import pandas as pd
import pytest

import protonorm_jax
from protonorm_jax import methods
from protonorm_jax.command import cli
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.running import records, selection


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def make_run(folder, settings, summary=None, rows=()):
    write(folder / "config.json", settings.to_dict())
    described = {"versions": {}, "config_digest": "0", "majority_accuracy": 0.25}
    write(folder / "manifest.json", described | {"predictor": "head"})
    write(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if summary:
        write(folder / "summary.json", {"method": settings.method, **summary})


def finished(accuracy, predictor="head", **more):
    summary = {"status": "finished", "predictor": predictor, "rounds": 7, "seconds": 1.5}
    return summary | {f"{predictor}_accuracy": accuracy, "majority_accuracy": 0.25} | more


BASE = Config(rounds=7)
TGP = BASE.replace(method="fedtgp", margin=3.5, seed=1)


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    """Two runs that have ended, one that has not, a damaged one, and a sweep of three."""
    top = tmp_path_factory.mktemp("top")
    own = finished(0.5, "prototype", head_accuracy=0.9)
    make_run(top / "a", BASE, own | {"prototype_accuracy_selected": 0.75, "selected_round": 4})
    make_run(top / "b", TGP, finished(0.123456789012345))
    make_run(top / "c", BASE.replace(method="local"), rows=[{"round": 3, "head_accuracy": 0.7}])
    make_run(top / "d", BASE, finished(0.5))
    write(top / "d" / "summary.json", "{")
    base = BASE.replace(scale=2.0)
    changes = [{"scale": 9.0, "seed": 0}, {"seed": 1}, {"method": "fedtgp", "fedtgp.margin": 8.0}]
    described = {"base": base.to_dict(), "runs": changes, "runs_per_program": [1], "vmap_runs": 0}
    write(top / "s" / "sweep.json", described)
    rows = [{"run": "0000", "method": "protonorm", **finished(0.25)}]
    write(top / "s" / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    make_run(top / "s" / "runs" / "0000", base.replace(scale=9.0), finished(0.25))
    failed = {"status": "failed", "error": "FloatingPointError: loss is not finite", "rounds": 2}
    make_run(top / "s" / "runs" / "0001", base.replace(seed=1), failed)
    return top


def names(found, top):
    return [one.directory.removeprefix(f"{top}/") for one in found]


def test_records_have_settings_and_results_by_name(top):
    found = {name: one for one in records.read([top]) for name in names([one], top)}
    assert list(found) == ["a", "b", "c", "d", "s/runs/0000", "s/runs/0001", "s/runs/0002"]
    flat = found["a"].flat()
    assert (flat["rounds"], flat["rounds_done"], flat["scale"], flat["alpha"]) == (7, 7, 80.0, 0.1)
    assert (flat["accuracy"], flat["accuracy_selected"]) == (0.5, 0.75)
    assert found["b"].settings["margin"] == 3.5 and "scale" not in found["b"].settings
    assert set(found["b"].settings) == {*Config().to_dict(), *TGP.method_settings} - {
        "method_settings"
    }
    statuses = [one.status for one in found.values()]
    assert statuses == [
        *("finished", "finished", "killed", "damaged", "finished", "diverged", "waiting")
    ]
    assert found["c"].results["accuracy"] == 0.7 and found["c"].results["rounds_done"] == 3
    assert found["c"].results["majority_accuracy"] == 0.25
    assert "summary.json" in found["d"].results["error"]
    waiting = found["s/runs/0002"]
    assert (waiting.settings["method"], waiting.settings["margin"]) == ("fedtgp", 8.0)
    assert "scale" not in waiting.settings and waiting.results == {}


@pytest.mark.parametrize("name", methods.METHODS)
def test_records_agree_with_what_older_readers_complete(name, tmp_path):
    """Without loading the methods."""
    make_run(tmp_path, Config(method=name), finished(0.5))
    (record,) = records.read([tmp_path])
    whole = Config(method=name).to_dict()
    own = whole.pop("method_settings")
    assert record.settings == whole | dict(own)


def wanted(top, *texts):
    conditions = [selection.parse(text) for text in texts]
    return names(selection.select(records.read([top]), conditions), top)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["method=fedtgp"], ["b", "s/runs/0002"]),
        (["method=fedtgp", "margin<4"], ["b"]),
        (["margin>=3.5", "margin<=8"], ["b", "s/runs/0002"]),
        (["margin>3.5"], ["s/runs/0002"]),
        (["fedtgp.margin != 3.5", "method=fedtgp"], ["s/runs/0002"]),
        (["scale=8e1"], ["a"]),
        (["protonorm.scale=80"], ["a"]),
        (["fedtgp.seed=1"], ["b"]),
        (["upscale=yes", "accuracy>0.3"], ["a"]),
        (["rounds-done = 3"], ["c"]),
        (["status=diverged"], ["s/runs/0001"]),
        (["margin!=3.5", "status!=damaged", "seed=0"], ["a", "c", "s/runs/0000", "s/runs/0002"]),
    ],
)
def test_conditions(texts, found, top):
    assert wanted(top, *texts) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scale", "--where must be NAME=VALUE"),
        ("scale=big", "--where scale must be compared with a number, got scale=big"),
        ("method<fedtgp", "--where method must be compared with a text by = or !="),
        ("upscale=2", "--where upscale must be compared with true or false"),
    ],
)
def test_conditions_that_mean_nothing(text, words, top):
    with pytest.raises(UsageError) as error:
        wanted(top, text)
    assert str(error.value).startswith(words)


def test_order_puts_runs_without_a_value_last(top):
    found = records.read([top])
    by_margin = names(selection.ordered(found, "margin"), top)
    assert by_margin[:2] == ["b", "s/runs/0002"] and len(by_margin) == 7
    descending = names(selection.ordered(found, "margin", descending=True), top)
    assert descending == ["s/runs/0002", "b", *by_margin[2:]]


def listed(capsys, *words):
    code = cli.main(["list", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_shows_what_varies_and_what_came_out(top, capsys):
    with pytest.warns(UserWarning, match=r"d is left out, as it is damaged: .*summary\.json"):
        code, out, _ = listed(capsys, top)
    lines = out.splitlines()
    head, last = lines[1].split(), lines[-1]
    assert code == 0 and head[:4] == ["directory", "method", "seed", "status"]
    assert head[4:] == ["scale", "accuracy", "selected", "accuracy", "majority", "accuracy"]
    assert last == "2 more that have not ended: --all lists them too"


def test_list_as_csv_and_json_has_all_digits(top, capsys):
    where = ("--where", "method=fedtgp", "--columns", "seed,accuracy,upscale,margin")
    assert listed(capsys, top, *where, "--format", "csv") == (
        0,
        "seed,accuracy,upscale,margin\n1,0.123456789012345,,3.5\n",
        "",
    )
    _, out, _ = listed(capsys, top, *where, "--format", "json", "--all", "--sort=-margin")
    assert json.loads(out) == [
        {"seed": 0, "accuracy": None, "upscale": None, "margin": 8.0},
        {"seed": 1, "accuracy": 0.123456789012345, "upscale": None, "margin": 3.5},
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--where", "marign=3"], "--where must be a setting or a result of these runs, got"),
        (["--sort", "marign"], "--sort must be a setting or a result of these runs, got"),
        (["--columns", "seed,marign"], "--columns must be a setting or a result of these runs"),
        (["--where", "fedtpg.margin=3"], "--where must name a method of these runs before the"),
    ],
)
def test_names_that_there_are_not(flags, words, top, capsys):
    code, out, err = listed(capsys, top, *flags)
    assert (code, out) == (2, "") and err.startswith(f"protonorm: {words}")
    assert "(did you mean 'margin'?)" in err or "(did you mean 'fedtgp'?)" in err


def test_results_as_a_table_of_pandas(top):
    table = protonorm_jax.load_results(top)
    assert list(table.columns[:2]) == ["directory", "status"] and len(table) == 7
    row = table.set_index("directory").loc[f"{top}/b"]
    assert (row["margin"], row["accuracy"], row["rounds"]) == (3.5, 0.123456789012345, 7)
    alone = protonorm_jax.load_results(top / "a", str(top / "b"))
    kinds = {name: str(kind) for name, kind in alone.dtypes.items()}
    assert (kinds["seed"], kinds["rounds_done"], kinds["alpha"]) == ("int64", "int64", "float64")
    assert (kinds["upscale"], kinds["keep_state"]) == ("boolean", "bool")
    assert (kinds["selected_round"], kinds["local_epochs"]) == ("Int64", "float64")
    assert (kinds["margin"], kinds["method"]) == ("float64", str(pd.Series(["a"]).dtype))
    assert alone["margin"].isna().tolist() == [True, False]
    assert alone.groupby("method")["accuracy"].mean().loc["protonorm"] == 0.5


def test_without_pandas_it_says_what_brings_it(top):
    code = (
        "import sys; sys.modules['pandas'] = None; import protonorm_jax\n"
        "try: protonorm_jax.load_results(sys.argv[1])\n"
        "except protonorm_jax.UsageError as error: print(error, 'jax' in sys.modules)"
    )
    command = (sys.executable, "-c", code, str(top))
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "pip install 'protonorm_jax[pandas]'" in out and out.endswith("False\n")
