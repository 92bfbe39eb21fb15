"""The command line as a person uses it: files, tables, mistakes, interruption."""

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import figure

from protonorm_jax import config, data, methods, report, settings
from protonorm_jax.command import cli, commands, flags
from protonorm_jax.methods import table
from protonorm_jax.running import holdings, job, runs

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once")

FAST = ("--family", "mlp", "--num-clients", "4", "--feature-dim", "8", "--devices", "1")
FILES = {
    "config.json",
    "manifest.json",
    "metrics.jsonl",
    "summary.json",
    "prototypes.npz",
    "clients.npz",
    "clients.png",
    "curves.png",
    "prototypes.png",
}


@pytest.fixture(scope="module")
def small_file(small_set, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "small.npz"
    data.save_npz(small_set, path)
    return str(path)


@pytest.fixture(scope="module")
def recorded(small_file, tmp_path_factory):
    """A finished run of three rounds."""
    directory = tmp_path_factory.mktemp("run") / "one"
    flags = ("--data", small_file, *FAST, "--rounds", "3", "--out", str(directory))
    assert cli.main(["run", *flags]) == 0
    return directory


def complaint(capsys, *flags):
    """Runs a command that must fail; returns its one line on standard error."""
    try:
        code = cli.main(list(flags))
    except SystemExit as stop:
        code = stop.code
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1, (code, lines)
    return lines[0]


def test_a_run_directory_is_complete(recorded):
    assert {path.name for path in recorded.iterdir()} == FILES
    rows = [json.loads(line) for line in (recorded / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2, 3]
    summary = json.loads((recorded / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["method"] == "protonorm"
    assert summary["rounds"] == 3
    best = max(row["prototype_accuracy"] for row in rows)
    assert summary["prototype_accuracy_best"] == best
    assert summary["prototype_accuracy"] == rows[-1]["prototype_accuracy"]
    assert 0 < summary["majority_accuracy"] < 1
    assert summary["seconds"] > 0 and summary["compile_seconds"] > 0
    manifest = json.loads((recorded / "manifest.json").read_text())
    assert manifest["key"]["impl"] == "threefry2x32" and len(manifest["clients"]) == 4
    assert manifest["versions"]["jax"] and manifest["device"]["count"] == 1
    with np.load(recorded / "prototypes.npz") as arrays:
        assert arrays["prototypes"].shape == arrays["class_means"].shape == (5, 8)
        assert arrays["known"].all()
    for name in ("curves.png", "prototypes.png"):
        assert (recorded / name).read_bytes().startswith(b"\x89PNG")


def test_a_recorded_config_repeats_the_run_exactly(recorded, tmp_path):
    directory = tmp_path / "again"
    flags = ("--config", str(recorded / "config.json"), "--out", str(directory))
    assert cli.main(["run", *flags]) == 0
    for name in ("config.json", "metrics.jsonl"):
        assert (directory / name).read_bytes() == (recorded / name).read_bytes()


def test_flags_win_over_the_config_file(recorded, tmp_path):
    flags = ("--config", str(recorded / "config.json"), "--rounds", "1", "--no-shuffle")
    assert cli.main(["run", *flags, "--out", str(tmp_path / "short")]) == 0
    settings = json.loads((tmp_path / "short" / "config.json").read_text())
    assert settings["rounds"] == 1 and settings["shuffle"] is False
    assert settings["feature_dim"] == 8


def test_results_are_not_overwritten_unasked(recorded, small_file, capsys):
    before = (recorded / "metrics.jsonl").read_bytes()
    flags = ("run", "--data", small_file, *FAST, "--out", str(recorded))
    assert "--overwrite" in complaint(capsys, *flags)
    assert (recorded / "metrics.jsonl").read_bytes() == before


def test_overwriting_leaves_other_files_alone(small_file, tmp_path, monkeypatch):
    flags = ("--data", small_file, *FAST, "--rounds", "1", "--method", "local")
    with monkeypatch.context() as many:
        many.setattr(holdings, "MOST_LISTED", 3)
        assert cli.main(["run", *flags, "--out", str(tmp_path)]) == 0
    assert "clients" not in json.loads((tmp_path / "manifest.json").read_text())
    (run,) = runs.read_runs([tmp_path])
    assert run.holdings["train"].shape[0] == 4
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "metrics.jsonl").write_text("old\n")
    (tmp_path / "prototypes.npz").write_bytes(b"old")
    assert cli.main(["run", *flags, "--out", str(tmp_path), "--overwrite"]) == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 1 and "prototype_accuracy" not in json.loads(rows[0])
    assert not (tmp_path / "prototypes.npz").exists()
    assert not (tmp_path / "holdings.npz").exists()


@pytest.mark.parametrize(
    ("methods", "yardsticks", "labels", "lines"),
    [
        (("protonorm", "local"), (0.7, 0.7), ["protonorm", "local"], 3),
        (("protonorm", "protonorm"), (0.7, 0.7), ["one", "two"], 3),
        (("protonorm", "local"), (0.7, 0.5), ["protonorm", "local"], 5),
    ],
)
def test_curves_of_a_comparison_can_be_told_apart(methods, yardsticks, labels, lines, monkeypatch):
    """By directory where methods are the same; each has its own yardstick if these differ."""
    drawn = []
    keep = lambda figure, *_, **__: drawn.append(figure)  # noqa: E731
    monkeypatch.setattr(figure.Figure, "savefig", keep)
    rows = [{"round": 1, "head_accuracy": 0.5}, {"round": 2, "head_accuracy": 0.6}]
    runs = [
        ({"method": method, "majority_accuracy": yardstick}, rows)
        for method, yardstick in zip(methods, yardsticks, strict=True)
    ]
    report.draw_comparison(runs, ["one", "two"], io.BytesIO())
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()][:2] == labels
    assert len(axes.lines) == lines
    heights = [set(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "--"]
    assert set().union(*heights) == set(yardsticks)


def test_compare_prints_one_table(recorded, tmp_path, capsys):
    picture = tmp_path / "both.png"
    assert cli.main(["compare", str(recorded), str(recorded), "--out", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("protonorm ") == 2 and "majority" in printed and "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--alpha", "-1"), "Config.alpha must be > 0, got -1.0"),
        (("--alpha", "much"), "Config.alpha must be a number, got 'much'"),
        (("--rounds", "1.5"), "Config.rounds must be an integer, got '1.5'"),
        (("--learning-rate", "nan"), "Config.learning_rate must be finite, got nan"),
        (("--participation", "1.5"), "Config.participation must be <= 1, got 1.5"),
        (("--method", "fedsgd"), "Config.method must be one of protonorm, fedproto, local"),
        (("--align", "best"), "protonorm.align must be one of auto, thomson"),
        (("--method", "fedtgp", "--margin", "-1"), "fedtgp.margin must be > 0, got -1.0"),
        (("--method", "fedavg"), "--family must be one model for method fedavg"),
        (
            ("--method", "fml", "--shared-model", "resnet9"),
            "Config.shared_model: model must be one of mlp, ",
        ),
        (
            ("--method", "fml", "--shared-model", "fedavg_cnn"),
            "Config.shared_model: image_shape must be at least 16 x 16 for fedavg_cnn",
        ),
        (
            ("--method", "local", "--shared-model", "mlp"),
            "Config.shared_model must be family for method local, which shares no model that could "
            "be chosen, got 'mlp'",
        ),
        (
            ("--method", "fedavg", "--family", "mlp", "--shared-model", "mlp"),
            "Config.shared_model must be family for method fedavg",
        ),
        (("--methods", "missing.py"), "--methods must be a readable file"),
        (("--alpa", "1"), "unrecognized arguments: --alpa (did you mean '--alpha'?)"),
        (("--family", "resnet9"), "resnet"),
        (("--data", "mnist"), "Config.data must be one of digits"),
        (("--data", "missing.npz"), "missing.npz must exist"),
        (("--num-clients", "5000"), "Config.num_clients must be <= 1797"),
        (("--family", "fedavg_cnn"), "16"),
        (
            ("--method", "fedproto", "--scale", "3"),
            "--scale is a setting of protonorm, and must be left out for method fedproto",
        ),
        (("--method", "local", "--align=none"), "--align is a setting of protonorm, and"),
        (("--method", "local", "--no-detach"), "--no-detach is a setting of fml"),
        (("--config", "missing.json"), "config must be a readable JSON file, got 'missing.json'"),
        (("--devices", "99"), "Config.devices must be <= "),
        (("--learning-rate", "1e12", "--rounds", "5", *FAST), "loss must be finite"),
        (("--colour", "red"), "--colour"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(flags, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = complaint(capsys, "run", *flags, "--out", "new")
    assert line.startswith("protonorm: ") and words in line
    if "loss" not in words:
        assert list(tmp_path.iterdir()) == []
    else:
        summary = json.loads((tmp_path / "new" / "summary.json").read_text())
        assert summary["status"] == "failed"


def test_a_bad_config_file_names_the_field(tmp_path, capsys):
    path = tmp_path / "config.json"
    for text, words in (
        ('{"speed": 3}', "Config has no field 'speed'"),
        ('{"rounds": "ten"}', "Config.rounds must be an integer, got 'ten'"),
        ('{"shuffle": 1}', "Config.shuffle must be true or false, got 1"),
        ("[1]", "must hold one JSON object"),
        ("{", "must be valid JSON"),
    ):
        path.write_text(text)
        assert words in complaint(capsys, "run", "--config", str(path))


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match=r"Config\.alpha"):
        cli.main(["run", "--alpha", "-1", "--debug"])


def test_a_bug_is_one_line_too(monkeypatch, capsys, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(job, "run", broken)
    assert cli.main(["run", "--out", str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "protonorm: RuntimeError: first (a bug; --debug shows where)"
    ]


def test_every_setting_has_a_flag_and_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    text = capsys.readouterr().out
    names = [name for name in config.Config().to_dict() if name != "method_settings"]
    for name in (*names, "scale", "proximity"):
        assert "--" + name.replace("_", "-") in text
    with pytest.raises(SystemExit):
        cli.main(["run", "--method", "fml", "--help"])
    text = capsys.readouterr().out
    assert "--private-weight" in text and "--no-detach" in text and "--scale" not in text


def test_another_method_drops_the_settings_of_the_config_file(recorded, tmp_path):
    flags = ("--config", str(recorded / "config.json"), "--rounds", "1", "--method", "local")
    assert cli.main(["run", *flags, "--out", str(tmp_path / "local")]) == 0
    written = json.loads((tmp_path / "local" / "config.json").read_text())
    assert written["method"] == "local" and written["method_settings"] == {}


def test_another_method_needs_nothing_of_the_one_in_the_config_file(tmp_path):
    """Neither its file nor its settings, of today's or of older versions."""
    path = tmp_path / "config.json"
    file = {"path": "mine.py", "digest": "0" * 64}
    for method in (
        {"method": "mine", "method_settings": {"pull": 3}, "methods_file": file},
        {"method": "protonorm", "scale": 3.0, "align": None, "collect": "before"},
    ):
        path.write_text(json.dumps({"rounds": 7, **method}))
        parsed = commands.parse(["run", "--config", str(path), "--method", "fedtgp"])
        chosen = flags.chosen(parsed)
        assert chosen == config.Config(method="fedtgp", rounds=7)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], "none"),
        (["--augment"], "crop,flip"),
        (["--augment", "--rounds", "3"], "crop,flip"),
        (["--augment", "crop"], "crop"),
        (["--augment=flip,crop"], "crop,flip"),
    ],
)
def test_augmentation_needs_no_value(given, wanted):
    assert flags.chosen(commands.parse(["run", *given])).augment == wanted


def test_methods_are_listed_with_their_settings(capsys):
    assert cli.main(["methods"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in methods.METHODS)
    assert cli.main(["methods", "fedtgp"]) == 0
    printed = capsys.readouterr().out
    for words in ("arXiv:2401.03230", "margin", "100.0", "> 0", "C_i D", "before"):
        assert words in printed
    assert "(did you mean 'fedtgp'?)" in complaint(capsys, "methods", "fedtpg")


def test_a_plan_says_what_the_method_adds(small_file, tmp_path, capsys):
    """Five classes of 8 floats; the server of FedTGP trains on 20 pairs at most."""
    sizes = (*FAST, "--batch-size", "8", "--data", small_file, "--out", str(tmp_path / "no"))
    flags = ("run", *sizes, "--method", "fedtgp", "--dry-run", "--distance", "squared")
    assert cli.main([*flags, "--server-epochs", "7"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("fedtgp adds at most 40 floats up and 40 down a client and round, 0.00")
    assert first.endswith(f"at most {7 * 3} steps of the server a round")  # Of 8 of 20 pairs.
    assert second == (
        "proximity 10 on the squared distance: effective weight 80 on the mean over 8 elements"
    )
    assert third.startswith("expected memory of a device: ")
    assert cli.main(["run", *sizes, "--method", "local", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("local adds nothing\n")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("devices", "participation", "said"),
    [(1, "0.5", ""), (2, "1.0", ""), (2, "0.5", "on 2 devices: the busiest is expected")],
)
def test_a_plan_says_how_unevenly_those_who_train_fall(
    devices, participation, said, small_file, capsys
):
    """Two of four clients are on one device in a third of rounds, and on two in the others."""
    sizes = (*FAST, "--data", small_file, "--method", "local", "--dry-run", "--partition", "iid")
    flags = ("run", *sizes, "--devices", str(devices), "--participation", participation)
    assert cli.main(flags) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "unevenly" in line]
    assert len(lines) == bool(said) and all(said in line for line in lines)
    for line in lines:
        assert 1.2 < float(line.split(" times")[0].split()[-1]) < 1.47


def test_flags_of_the_command_line_are_taken():
    """No setting of a method may have such a name."""
    for command in ("run", "sweep", "resume", "verify", "methods"):
        parser = commands.make_parser(command, ["--method", "local"])
        (places,) = [action for action in parser._actions if action.choices]
        for action in places.choices[command]._actions:
            named = [flag.removeprefix("--") for flag in action.option_strings if flag[:2] == "--"]
            for flag in named:
                name = flag.replace("-", "_").removeprefix("no_")
                assert name in (*settings.fields(config.Config), *table._TAKEN), name


def interrupt(*flags, after):
    """Starts a run, sends Ctrl-C once a line begins with `after`; returns code and errors."""
    # Tests started in the background inherit that Ctrl-C is to be ignored.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from protonorm_jax.command import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "run", *flags]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        for line in process.stdout:
            if line.startswith(after):
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors.splitlines()


def test_interruption_leaves_a_valid_directory(small_file, tmp_path):
    """Ctrl-C between two of many short calls."""
    flags = ("--data", small_file, *FAST, "--rounds", "1000000", "--out", str(tmp_path / "run"))
    assert interrupt(*flags, after="round") == (130, ["protonorm: interrupted"])
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert summary["status"] == "interrupted"
    assert summary["rounds"] == len(rows) == json.loads(rows[-1])["round"]


def test_interruption_does_not_wait_for_the_device(small_file, tmp_path):
    """Ctrl-C in the first of a few calls that take for ever."""
    rounds = ("--rounds", "100000000", "--eval-every", "100000000")
    flags = ("--data", small_file, *FAST, *rounds, "--out", str(tmp_path / "run"))
    assert interrupt(*flags, after="protonorm on") == (130, ["protonorm: interrupted"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted" and summary["rounds"] == 0
