"""Whatever is wrong with what comes from outside: one line, exit code 2, and nothing left behind.

A row of a table is what is wrong, the command line, and words of the line: the field, the rule and
the value. `{data}` stands for a small set, `{run}` for a copy of a finished run and `{sweep}` for
one of a sweep, which the row may damage first.
"""

import json
import os
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

from protonorm_jax import data
from protonorm_jax.command import cli

pytestmark = pytest.mark.usefixtures("hastily")

SMALL = "--num-clients 3 --min-samples 1"
TINY = (
    "--method",
    "local",
    "--family",
    "mlp",
    "--num-clients",
    "3",
    "--feature-dim",
    "4",
    "--devices",
    "1",
)
LONG = "x" * 300


class Bad(NamedTuple):
    """What is wrong.

    Attributes:
      command: the command line, to be split at blanks.
      words: that the complaint must have.
      files: what to write first: content by path.
      removed: what to remove first.
    """

    command: str
    words: tuple[str, ...]
    files: dict[str, str | bytes] = {}  # noqa: RUF012 (never written to)
    removed: tuple[str, ...] = ()


def flag(text, *words):
    """Of `run` on the small set."""
    return Bad(f"run --data {{data}} {SMALL} {text}", words)


def config(content, *words):
    return Bad("run --config c.json", words, {"c.json": content})


def grid(content, *words):
    return Bad("sweep --data {data} --grid-file g.json", words, {"g.json": content})


def compared(name, content, *words):
    return Bad("compare {run}", (name, *words), {f"{{run}}/{name}": content})


def swept(name, content, *words):
    return Bad("compare {sweep}", (name, *words), {f"{{sweep}}/{name}": content})


EXPERIMENT = {
    **{"format": 1, "tune": 1, "seeds": [1_000_000], "rounds": 1, "final_seeds": [0]},
    **{"learning_rates": [0.1], "data_digests": [""], "runs_per_program": 0, "vmap_runs": 0},
    "cells": [{"changes": {}, "ranges": {}, "points": [{"learning_rate": 0.1}]}],
    "base": {},
}
CHOICE = {
    **{"changes": {}, "chosen": 0, "point": {}, "edges": [], "seconds": 1.0},
    "tried": [{"point": {}, "diverged": 0, "seconds": 1.0}],
}


def cell(**ranges):
    return {"changes": {}, "ranges": ranges, "points": [{"learning_rate": 0.1}]}


def tuned(command, changes, *words, choices=None):
    """What stands in the files of an experiment, and words of the complaint."""
    files = {"{sweep}/tuning.json": json.dumps(EXPERIMENT | changes)}
    if choices is not None:
        files["{sweep}/choices.json"] = json.dumps(choices)
    return Bad(command, words, files)


def row_with(**figures):
    return json.dumps({"round": 1, "head_accuracy": 0.5, **figures}) + "\n"


FLAGS = {
    "negative": flag("--alpha -1", "Config.alpha must be > 0", "-1.0"),
    "zero": flag("--num-clients -1", "Config.num_clients must be >= 0", "-1"),
    "text for a number": flag("--alpha much", "Config.alpha must be a number", "'much'"),
    "fraction for a count": flag("--rounds 1.5", "Config.rounds must be an integer", "'1.5'"),
    "nan": flag("--learning-rate nan", "Config.learning_rate must be finite", "nan"),
    "infinite": flag("--dropout inf", "Config.dropout must be finite", "inf"),
    "too much": flag("--participation 1.5", "Config.participation must be <= 1", "1.5"),
    "a seed below zero": flag("--seed -1", "Config.seed must be >= 0", "-1"),
    "a seed beyond 32 bits": flag("--seed 4294967296", "Config.seed must be <= 4294967295"),
    "no such method": flag("--method fedsgd", "Config.method must be one of", "'fedsgd'"),
    "a method in other letters": flag("--method FedProto", "'FedProto'", "'fedproto'"),
    "no such choice": flag("--align best", "protonorm.align must be one of", "'best'"),
    "a setting of another method": flag("--method fedproto --scale 3", "--scale", "protonorm"),
    "no such model": flag("--family resnet9", "Config.family", "resnet9", "resnet8"),
    "a model with a long name": flag(f"--family {LONG}", "Config.family", "must be one of"),
    "too many clients": flag("--num-clients 5000", "Config.num_clients must be <=", "5000"),
    "as many devices as nobody has": flag("--devices 999", "Config.devices must be <=", "999"),
    "images too small for the net": flag("--family fedavg_cnn", "16 x 16", "fedavg_cnn"),
    "a dash for an underscore": flag("--batchsize 3", "--batchsize", "'--batch-size'"),
    "as others call it": flag("--lamda 1", "--lamda", "'--proximity'"),
    "as others abbreviate it": flag("--lr 1", "--lr", "'--learning-rate'"),
    "a short flag": flag("-lr 1", "-lr", "'--learning-rate'"),
    "rounds as others call them": flag("--global-rounds 3", "--global-rounds", "'--rounds'"),
    "no value": flag("--rounds", "--rounds", "expected one argument"),
    "an argument too many": flag("more", "unrecognized arguments: more"),
    "no command": Bad("", ("COMMAND",)),
    "no such command": Bad("train", ("COMMAND", "'train'")),
    "a schedule that is none": flag("--schedule sometimes", "Config.schedule", "sometimes"),
    "augmentation that is none": flag("--augment mirror", "Config.augment", "mirror"),
    "nesterov without momentum": flag("--nesterov", "nesterov", "momentum"),
    "classes that are none": flag("--classes 7-3", "Config.classes", "7-3"),
    "sizes that are none": flag("--sizes normal:1", "Config.sizes", "normal:1"),
    "a partition that is none": flag("--partition random", "Config.partition", "random"),
    "too many samples": flag("--num-samples 100000", "Config.num_samples", "100000"),
    "a fraction of no client": flag("--train-fraction 0", "Config.train_fraction must be > 0"),
    "half a process": flag("--process-id 1", "--coordinator", "--num-processes"),
    "a process that is none": flag(
        "--coordinator a --num-processes 1 --process-id 0", "--coordinator must be HOST:PORT", "'a'"
    ),
    "natural numbers": Bad("sweep --data {data} --seeds -1", ("--seeds", ">= 0", "-1")),
    "no number at all": Bad(
        "sweep --data {data} --vmap-runs x", ("--vmap-runs must be an integer >= 0", "'x'")
    ),
    "a typo in a grid": Bad("sweep --grid proximty=1,2", ("--grid", "proximty", "'proximity'")),
    "a grid as others call it": Bad("sweep --grid lamda=1", ("--grid", "lamda", "'proximity'")),
    "a grid of nothing": Bad("sweep --grid scale", ("--grid must be a setting = values", "scale")),
    "a grid of no method": Bad("sweep --grid fedtpg.margin=1", ("--grid", "'fedtgp'")),
    "a grid that cannot be": Bad("sweep --grid alpha=0", ("Config.alpha must be > 0", "0.0")),
    "a grid with doubles": Bad("sweep --grid alpha=1,1", ("grid must have each run once",)),
    "no such method to be told of": Bad("methods fedsgd", ("NAME must be one of", "'fedsgd'")),
    "one point": Bad("thomson --num-points 1", ("--num-points must be >= 2", "1")),
    "no number of points": Bad("thomson --num-points four", ("--num-points", "'four'")),
    "an exponent below zero": Bad(
        "thomson --num-points 4 --exponent -1", ("--exponent must be finite and >= 0", "-1")
    ),
    "a partition without a place": Bad("partition --data {data}", ("--out", "required")),
    "a partition of another form": Bad("partition --data {data} --out p.csv", ("p.csv", ".json")),
    "an export without a format": Bad("export --data {data} --to there", ("--to", "'there'")),
}
PATHS = {
    "an empty name": flag("--out=", "--out must name a file or directory", "''"),
    "nobody's home": flag("--out ~nobody-here/x", "--out must begin with the home", "~nobody-here"),
    "a name of 300 letters": flag(f"--out {LONG}", "File name too long"),
    "a config of 300 letters": Bad(f"run --config {LONG}", ("config", "File name too long")),
    "data of 300 letters": Bad(f"run --data npz:{LONG}.npz", ("File name too long",)),
    "a folder of 300 letters": Bad(f"run --data folder:{LONG}", ("File name too long",)),
    "idx of 300 letters": Bad(f"run --data idx:{LONG}", ("File name too long",)),
    "a run of 300 letters": Bad(f"resume {LONG}", ("File name too long",)),
    "a file for a directory": Bad(
        "run --data {data} --out file",
        ("--out must be a new or empty directory", "'file'"),
        {"file": ""},
    ),
    "a directory that holds something": Bad(
        "run --data {data} --out full",
        ("--out must be a new or empty directory", "'full'"),
        {"full/notes.txt": "mine"},
    ),
    "below a file": Bad("run --data {data} --out file/x", ("file/x",), {"file": ""}),
    "a directory for a config": Bad("run --config .", ("config must be a readable JSON", "'.'")),
    "a directory for methods": Bad("run --methods .", ("--methods must be a readable file",)),
    "a directory for data": Bad("run --data npz:.", ("must be readable", "directory")),
    "no data": Bad("run --data missing.npz", ("missing.npz must exist",)),
    "no source": Bad("run --data mnist", ("Config.data must be one of digits", "'mnist'")),
    "no name of data": Bad("run --data=", ("Config.data must be one of", "''")),
    "no run": Bad("compare missing", ("DIR must be the directory of a run", "'missing'")),
    "no sweep": Bad("resume missing", ("missing",)),
    "no finished run": Bad("verify missing", ("missing",)),
    "a picture in no format": Bad(
        "compare {run} --out p.xyz", ("--out must end in one of .png", "'p.xyz'")
    ),
    "a picture without an ending": Bad("compare {run} --out p", ("--out must end in", "'p'")),
    "a picture for a directory": Bad(
        "thomson --num-points 4 --out p.pdf", ("--out must name a directory", "'p.pdf'")
    ),
    "markup": Bad("run --data [/b][red].npz", ("[/b][red].npz must exist",)),
    "letters that are none": Bad("run --data \udc80.npz", ("\\udc80.npz must exist",)),
    "signals to a terminal": Bad("run --data \x1b[2J.npz", ("\\x1b[2J.npz must exist",)),
    "two lines": Bad("run\x00--data\x00a\nb.npz", ("a b.npz must exist",)),
}
DEEP = "[" * 10_000_000
FILES = {
    "a list for a config": config("[1]", "config must hold one JSON object", "a list"),
    "no JSON": config("{'a': 1}", "config must be valid JSON", "'c.json'"),
    "nothing at all": config("", "config must be valid JSON", "'c.json'"),
    "too deep": config(DEEP, "config must be valid JSON", "nested too deep"),
    "no UTF-8": config(b"\xff\xfe{}", "config must be a readable JSON file", "'c.json'"),
    "no number": config('{"alpha": NaN}', "config must be valid JSON", "NaN is no JSON number"),
    "beyond floats": config('{"alpha": 1e999}', "config must be valid JSON", "1e999"),
    "beyond floats as an integer": config(
        f'{{"alpha": 1{"0" * 400}}}', "Config.alpha must be within the range of floats"
    ),
    "text for a number in a file": config('{"alpha": "1"}', "Config.alpha must be a number", "'1'"),
    "null for a number": config('{"rounds": null}', "Config.rounds must be an integer", "None"),
    "a list for a number": config('{"rounds": [1]}', "Config.rounds must be an integer", "[1]"),
    "truth for a number": config('{"rounds": true}', "Config.rounds must be an integer", "True"),
    "a list for a method": config('{"method": ["local"]}', "Config.method must be text"),
    "null for settings": config(
        '{"method_settings": null}', "Config.method_settings must be a mapping", "None"
    ),
    "a setting that is none": config(
        '{"method_settings": {"scall": 1}}', "protonorm has no setting 'scall'", "'scale'"
    ),
    "a setting of null": config(
        '{"method_settings": {"scale": null}}', "protonorm.scale must be a number", "None"
    ),
    "a field that is none": config('{"colour": 1}', "Config has no field 'colour'"),
    "a method from nowhere": config(
        '{"method": "mine", "methods_file": {"path": "m.py", "digest": "0"}}', "--methods", "m.py"
    ),
    "zero bytes in a path": config('{"data": "a\\u0000.npz"}', "a\\x00.npz"),
    "a number for a grid": grid("3", "grid must hold values by setting or a list", "'g.json'"),
    "no grid": grid("[]", "grid must hold values by setting or a list", "'g.json'"),
    "a grid without a list": grid('{"alpha": 1}', "alpha must have a list of values", "1"),
    "an empty axis": grid('{"alpha": []}', "alpha must have a list of values", "[]"),
    "nothing in an axis": grid('{"alpha": [null]}', "Config.alpha must be a number", "None"),
    "an axis in an axis": grid('{"alpha": [[1]]}', "Config.alpha must be a number", "[1]"),
    "an axis as others call it": grid('{"lamda": [1]}', "'lamda'", "'proximity'"),
    "methods that are none": grid('{"method": [1]}', "Config.method must be text", "1"),
    "a deep grid": grid(DEEP, "grid must be a readable JSON file", "nested too deep"),
    "a missing grid": Bad("sweep --grid-file no.json", ("grid must be a readable JSON", "no.json")),
    "methods with a mistake": Bad(
        "run --methods m.py", ("m.py", "SyntaxError"), {"m.py": "def method(:\n"}
    ),
    "methods that need something": Bad(
        "run --methods m.py", ("m.py", "ModuleNotFoundError"), {"m.py": "import no_such_thing\n"}
    ),
    "no archive": Bad(
        "run --data d.npz", ("d.npz must be a .npz archive",), {"d.npz": "no archive"}
    ),
    "an empty archive": Bad(
        "run --data d.npz", ("d.npz must be a .npz archive", "empty"), {"d.npz": ""}
    ),
    "no partition": Bad(
        "run --data {data} --partition file:p.json", ("p.json",), {"p.json": "[1, 2]"}
    ),
    "a partition of others": Bad(
        "run --data {data} --partition file:p.json",
        ("p.json",),
        {"p.json": '{"clients": [{"train": [99999], "test": []}]}'},
    ),
    "labels in no group": Bad(
        "run --data {data} --group-labels l.json", ("l.json",), {"l.json": '{"99": "a"}'}
    ),
}
RECORDS = {
    "a list for a summary": compared("summary.json", "[]", "must be an object"),
    "no method": compared("summary.json", '{"status": "finished"}', "method must be text"),
    "text for an accuracy": compared(
        "summary.json",
        '{"status": "finished", "method": "local", "head_accuracy": "high"}',
        "head_accuracy must be a number or null",
        "'high'",
    ),
    "no summary": compared("summary.json", "{", "'{run}'"),
    "no UTF-8 in a summary": compared("summary.json", b"\xff", "'{run}'"),
    "brackets": compared("summary.json", DEEP, "nested too deep"),
    "no number in a summary": compared("summary.json", '{"a": NaN}', "NaN is no JSON number"),
    "a row that is none": compared("metrics.jsonl", "garbage\n", "line 1 is no JSON"),
    "a row of numbers": compared("metrics.jsonl", "[1]\n", "line 1 must be one JSON object"),
    "a row without a round": compared("metrics.jsonl", "{}\n", "round must be an integer", "None"),
    "a row of text": compared(
        "metrics.jsonl", row_with(head_accuracy="x"), "head_accuracy must be a number", "'x'"
    ),
    "no UTF-8 in rows": compared("metrics.jsonl", b"\xff\n", "'{run}'"),
    "no rows": Bad("compare {run}", ("metrics.jsonl",), {}, ("{run}/metrics.jsonl",)),
    "a directory for a file": Bad(
        "resume {run}",
        ("config must be a readable JSON file",),
        {"{run}/config.json/x": ""},
        ("{run}/config.json", "{run}/summary.json"),
    ),
    "a list to resume": Bad(
        "resume {run}", ("config must hold one JSON object", "a list"), {"{run}/config.json": "[]"}
    ),
    "a manifest of another kind": Bad(
        "verify {run}",
        ("manifest.json", "versions must be an object", "3"),
        {"{run}/manifest.json": '{"versions": 3}'},
    ),
    "no manifest to verify by": Bad(
        "verify {run}", ("manifest.json",), {"{run}/manifest.json": "[]"}
    ),
    "a run that is not finished": Bad(
        "verify {run}",
        ("must hold a finished run", "'stopped'"),
        {"{run}/summary.json": '{"status": "stopped", "method": "protonorm"}'},
    ),
    "a list for a sweep": swept("sweep.json", "[]", "must be an object"),
    "a sweep of nothing": swept("sweep.json", '{"base": {}}', "runs must be a list", "None"),
    "a sweep of numbers": swept(
        "sweep.json",
        '{"base": {}, "runs": [1], "runs_per_program": [1], "vmap_runs": 1}',
        "each of runs must be an object",
    ),
    "results that are none": swept("results.jsonl", "garbage\n", "line 1 is no JSON"),
    "results of no run": swept(
        "results.jsonl", '{"method": "local", "status": "finished"}\n', "run must be a number"
    ),
    "results of text": swept(
        "results.jsonl",
        '{"run": "0000", "method": "local", "status": "finished", "seconds": "long"}\n',
        "seconds must be a number or null",
    ),
    "a sweep to resume": Bad(
        "resume {sweep}", ("sweep.json", "must be an object"), {"{sweep}/sweep.json": "3"}
    ),
    "a sweep without its runs": Bad("verify {sweep}", ("config.json", "0000")),
    "half a sweep to verify": Bad(
        "verify {sweep}",
        ("DIR must hold a finished sweep", "0 of 1 runs"),
        {"{sweep}/results.jsonl": ""},
    ),
    "half an experiment to verify": tuned("verify {sweep}", {}, "DIR must hold a finished exp"),
    "an experiment of the future": tuned(
        "resume {sweep}", {"format": 2}, "format must be 1, got 2"
    ),
    "an experiment without cells": tuned(
        "resume {sweep}", {"cells": []}, "cells must have at least"
    ),
    "too few rates": tuned(
        "verify {sweep}", {"tune": 3}, "learning_rates must have at least 3, got 1"
    ),
    "a range of nothing": tuned(
        "verify {sweep}",
        {"cells": [cell(margin={"low": 0, "high": 1, "scale": "log"})]},
        "low must be < high, and on a log scale > 0, got 0",
    ),
    "rates of nothing": tuned(
        "verify {sweep}",
        {"cells": [cell(learning_rate={"values": [0.1, 0.2]})]},
        "values must be 1 numbers > 0, got [0.1, 0.2]",
    ),
    "points of text": tuned(
        "resume {sweep}",
        {"cells": [{"changes": {}, "ranges": {}, "points": [{"scale": "1"}]}]},
        "each of points must be an object of numbers",
    ),
    "choices of nothing": tuned(
        "compare {sweep}",
        {},
        "tried must have at least 1, got 0",
        choices=[{**CHOICE, "tried": []}],
    ),
    "a choice of another": tuned(
        "compare {sweep}",
        {},
        "chosen must be one of those tried",
        choices=[{**CHOICE, "chosen": 1}],
    ),
    "a picture of a sweep": Bad("compare {sweep} --out p.png", ("--out", "at least one run")),
}
ROWS = {**FLAGS, **PATHS, **FILES, **RECORDS}


@pytest.fixture(scope="module")
def places(small_set, tmp_path_factory):
    """A small set, a finished run on it, and a sweep that looks like one."""
    root = tmp_path_factory.mktemp("good")
    data.save_npz(small_set, root / "data.npz")
    run = root / "run"
    given = ("--data", str(root / "data.npz"), *TINY, "--rounds", "1", "--out", str(run))
    assert cli.main(["run", *given]) == 0
    folder = root / "sweep"
    folder.mkdir()
    base = json.loads((run / "config.json").read_text())
    described = {"base": base, "runs": [{"seed": 0}], "runs_per_program": [1], "vmap_runs": 1}
    (folder / "sweep.json").write_text(json.dumps({**described, "methods_files": []}))
    summary = json.loads((run / "summary.json").read_text())
    (folder / "results.jsonl").write_text(json.dumps({"run": "0000", "seed": 0, **summary}) + "\n")
    return {"data": str(root / "data.npz"), "run": run, "sweep": folder}


def contents(folder):
    """All that is below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_is_wrong_is_one_line_and_leaves_nothing(row, places, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"data": places["data"], "run": "run", "sweep": "sweep"}

    def filled(text):
        for name, place in names.items():
            text = text.replace(f"{{{name}}}", place)
        return text

    for name in ("run", "sweep"):
        if any(f"{{{name}}}" in text for text in (row.command, *row.files)):
            shutil.copytree(places[name], name)
    for name in row.removed:
        (tmp_path / filled(name)).unlink()
    for name, content in row.files.items():
        path = tmp_path / filled(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = contents(tmp_path)

    between = "\0" if "\0" in row.command else None
    code = cli.main([filled(word) for word in row.command.split(between)])
    printed = capsys.readouterr()
    assert code == 2, printed
    (line,) = printed.err.splitlines()
    assert line.startswith("protonorm: ") and "a bug" not in line, line
    assert [word for word in row.words if filled(word) not in line] == [], line
    assert len(line) < 900
    assert contents(tmp_path) == before


# Variables, and words of the complaint of a run under them.
ENVIRONMENTS = {
    "XLA_FLAGS=--xla_no_such_flag=1": ("XLA_FLAGS must be flags that XLA knows", "no_such_flag"),
    "JAX_ENABLE_X64=maybe": ("JAX_ENABLE_X64 must be a value that jax takes", "'maybe'"),
    "XLA_FLAGS=nonsense": ("XLA_FLAGS must be flags that XLA knows", "'nonsense'"),
    "JAX_PLATFORMS=tpu": ("JAX_PLATFORMS must name a platform that jax finds", "'tpu'"),
    "JAX_PLATFORMS=nonsense": ("JAX_PLATFORMS must name a platform", "'nonsense'"),
    "JAX_PLATFORM_NAME=gpu": ("JAX_PLATFORM_NAME must name a platform", "'gpu'"),
    "JAX_DISABLE_JIT=1": ("JAX_DISABLE_JIT must be False", "True"),
    "JAX_CHECK_TRACER_LEAKS=1": ("JAX_CHECK_TRACER_LEAKS must be False", "True"),
    "JAX_TRANSFER_GUARD=disallow": ("JAX_TRANSFER_GUARD_HOST_TO_DEVICE must be", "disallow"),
    "JAX_NUM_CPU_DEVICES=0": ("JAX_NUM_CPU_DEVICES must be >= 1", "0"),
    "JAX_NUM_CPU_DEVICES=many": ("JAX_NUM_CPU_DEVICES must be a value that jax takes", "'many'"),
    "JAX_NUMPY_DTYPE_PROMOTION=none": ("JAX_NUMPY_DTYPE_PROMOTION must be a value", "'none'"),
    "JAX_DEFAULT_PRNG_IMPL=dice": ("JAX_DEFAULT_PRNG_IMPL must be a value", "'dice'"),
    "JAX_DEFAULT_DEVICE=tpu": ("JAX_DEFAULT_DEVICE must name a platform", "'tpu'"),
    "JAX_NUM_PROCESSES=two": ("JAX_NUM_PROCESSES must be an integer >= 0", "'two'"),
}
# Variables with which a run must come to the same numbers as without.
HARMLESS = (
    ("MPLBACKEND=module://matplotlib_inline.backend_inline",),
    ("JAX_NUMPY_DTYPE_PROMOTION=strict", "JAX_NUMPY_RANK_PROMOTION=raise", "TERM=dumb"),
    ("MPLBACKEND=nonsense", "PYTHONIOENCODING=ascii", "COLUMNS=10", "NO_COLOR=1"),
    ("HOME=/dev/null/x", "XDG_CACHE_HOME=/dev/null/x", "MPLCONFIGDIR=/dev/null/x"),
    ("JAX_DEBUG_NANS=1", "JAX_DEFAULT_PRNG_IMPL=rbg", "LC_ALL=C", "LANG=C"),
)
_COSTLY = pytest.mark.large


def process(*words, variables=(), before=(), **options):
    """A process of the command line, whose environment is otherwise that of a user."""
    own = ("JAX", "XLA", "MPL", "NPROC")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(own)}
    environment |= dict(one.split("=", 1) for one in variables)
    command = (*before, sys.executable, "-m", "protonorm_jax", *words)
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, env=environment, text=True, **piped)


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        pytest.param(*row, id=row[0], marks=_COSTLY if number else ())
        for number, row in enumerate(ENVIRONMENTS.items())
    ],
)
def test_an_environment_that_cannot_be(variable, words, places, tmp_path):
    given = ("run", "--data", places["data"], *TINY, "--out", "new")
    with process(*given, variables=[variable], cwd=tmp_path) as child:
        _, complaint = child.communicate()
    assert child.returncode == 2, complaint
    (line,) = complaint.splitlines()
    assert line.startswith("protonorm: ") and [word for word in words if word not in line] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "variables", [HARMLESS[0], *(pytest.param(one, marks=_COSTLY) for one in HARMLESS[1:])]
)
def test_an_environment_that_changes_nothing(variables, places, tmp_path):
    """Also with a name that is markup, and has letters that not every encoding has."""
    out = tmp_path / "[/b]ü"
    given = ("run", "--data", places["data"], *TINY, "--rounds", "1", "--out", str(out))
    with process(*given, variables=variables) as child:
        printed, complaint = child.communicate()
    assert (child.returncode, complaint) == (0, ""), complaint
    assert "[/b]" in printed.splitlines()[-1]
    for name in ("curves.png", "summary.json"):
        assert (out / name).stat().st_size > 0
    row, other = (json.loads((path / "metrics.jsonl").read_text()) for path in (out, places["run"]))
    assert row.keys() == other.keys()


@pytest.mark.parametrize("reader", ["leaves", pytest.param("never was", marks=_COSTLY)])
def test_a_reader_who_leaves_ends_the_output_alone(reader, places, tmp_path):
    given = ("run", "--data", places["data"], *TINY, "--rounds", "3", "--out", str(tmp_path / "a"))
    closed = ("sh", "-c", 'exec "$@" >&-', "sh") if reader == "never was" else ()
    with process(*given, before=closed) as child:
        child.stdout.readline()
        child.stdout.close()
        complaint = child.stderr.read()
    assert (child.returncode, complaint) == (0, "")
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["rounds"] == 3


@pytest.mark.large
@pytest.mark.parametrize("words", [("--help",), ("methods",), ("run", "--help")])
def test_help_to_a_reader_who_leaves(words):
    with process(*words) as child:
        child.stdout.close()
        complaint = child.stderr.read()
    assert (child.returncode, complaint) == (0, "")


@pytest.mark.large
def test_output_that_cannot_be_written_is_said(places):
    with (
        open("/dev/full", "w") as full,
        process("compare", str(places["run"]), stdout=full) as child,
    ):
        complaint = child.stderr.read()
    assert child.returncode == 2
    assert complaint.startswith("protonorm: standard output must be writable, got ")


def test_there_are_enough_rows():
    assert len(ROWS) + len(ENVIRONMENTS) >= 60
