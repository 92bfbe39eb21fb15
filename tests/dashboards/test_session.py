"""A dashboard that fails or hangs costs nothing but itself."""

import ast
import builtins
import threading
import time

import pytest
import readers
from fake_dashboard import Fake, fails

from protonorm_jax import dashboards
from protonorm_jax.dashboards import folders, session
from protonorm_jax.errors import Caution, UsageError

HANGS = threading.Event()  # Nobody sets it.


@pytest.mark.parametrize("where", ["start", "add", "finish"])
def test_a_dashboard_that_hangs_is_waited_for_once(where, monkeypatch, tmp_path):
    monkeypatch.setattr(session, "PATIENCE", 0.2)
    monkeypatch.setattr(session, "_made", lambda name, run: Fake(where, HANGS.wait))
    runs = dashboards.Session(["wandb"], tmp_path)
    began = time.monotonic()
    with pytest.warns(Caution, match=r"--log wandb: did not (start|finish) within 0\.2 s"):
        for _ in range(3):
            logs = [runs.start(f"run {number}", {}) for number in range(10)]
            for log in logs:
                log.add({"round": 1})
            for log in logs:
                log.finish({})
    assert time.monotonic() - began < 2


def test_a_dashboard_imports_and_parses_nothing_while_the_run_goes_on(tmp_path, monkeypatch):
    """Python 3.11 raises a SystemError in one of two threads that parse at once."""
    parsed, compiles, adding = [], builtins.compile, threading.Event()

    def spy(source, filename, mode, flags=0, *rest, **options):
        aside = threading.current_thread() is not threading.main_thread()
        if flags & ast.PyCF_ONLY_AST and aside:
            parsed.append(adding.is_set())
        return compiles(source, filename, mode, flags, *rest, **options)

    monkeypatch.setattr(builtins, "compile", spy)
    runs = dashboards.Session(dashboards.NAMES, tmp_path, token="earlier")
    for number in range(2):
        log = runs.start(f"run {number}", {}, key=str(number), group="all")
        adding.set()
        log.add({"round": 1, "loss": 0.5})
        for worker in log._workers.values():
            shown = threading.Event()
            worker.tell(lambda _, shown=shown: shown.set())
            assert shown.wait(60)
        adding.clear()
        log.finish({})
    assert True not in parsed


def test_one_warning_for_all_runs_of_a_session(monkeypatch, tmp_path):
    monkeypatch.setattr(session, "_made", lambda name, run: Fake("finish", fails))
    runs = dashboards.Session(["wandb"], tmp_path)
    with pytest.warns(Caution) as caught:
        for number in range(3):
            runs.start(f"run {number}", {}).finish({})
    assert len(caught) == 1


def test_a_dashboard_must_be_there(tmp_path):
    with pytest.raises(UsageError, match="log must be of tensorboard, wandb, mlflow, got 'w&b'"):
        dashboards.Session(["w&b"], tmp_path)


def test_only_finite_numbers_are_drawn():
    row = {"round": 3, "loss": None, "accuracy": 1, "std": float("nan"), "name": "x", "done": True}
    assert dashboards.numbers(row) == {"accuracy": 1.0}


@pytest.mark.parametrize("name", dashboards.NAMES)
def test_runs_that_train_side_by_side_do_not_disturb_each_other(name, tmp_path):
    runs = dashboards.Session([name], tmp_path)
    logs = [runs.start(f"run{key}", {"key": key}, key=f"{key}", group="all") for key in range(4)]
    for number in range(1, 11):
        for key, log in enumerate(logs):
            log.add({"round": number, "loss": key / number})
    for log in logs:
        log.finish({})
    found = getattr(readers, name)(tmp_path / folders.FOLDERS[name])
    assert set(found) == {"run0", "run1", "run2", "run3"}
    if name == "mlflow":
        assert len(list(tmp_path.glob("mlruns/*/meta.yaml"))) == 1  # One experiment.
    for key in range(4):
        points, settings, _ = found[f"run{key}"]
        assert settings["key"] == str(key)
        assert [step for step, _ in points["loss"]] == list(range(1, 11))
        assert points["loss"][1][1] == key / 2
