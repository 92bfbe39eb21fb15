"""Any legal settings: a run that ends well, can be verified and resumed; or it is refused at once.

Configurations and data are drawn by hypothesis from `FUZZ_SEED` (0): five of them here, 200 by
`make fuzz`. Those that are refused count as skipped, with the reason.
"""

import functools
import json
import os
import shutil
import signal

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from protonorm_jax import config, json_files, methods, settings
from protonorm_jax.command import cli
from protonorm_jax.running import checkpoint, driver, job

pytestmark = pytest.mark.usefixtures("hastily")

SEED = int(os.environ.get("FUZZ_SEED", "0"))
COUNT = int(os.environ.get("FUZZ_COUNT", "200"))
# Nets that compile within seconds; the dear ones seldom.
FAMILIES = (*("mlp",) * 6, *("cnn",) * 3, *("mlp,cnn",) * 3, "mlp+16", "mlp,mlp+16", "tiny_resnet")
# What a configuration may have besides; each draws from what is cheap and legal for somebody.
FIELDS = {
    "alpha": st.sampled_from([0.05, 0.5, 100.0]),
    "augment": st.sampled_from(["crop", "flip", "crop,flip"]),
    "batch_size": st.sampled_from([1, 2, 5, 64]),
    "checkpoint_every": st.just(1),
    "classes": st.sampled_from(["0-1", "0,1"]),
    "classes_per_client": st.integers(1, 3),
    "clip_norm": st.sampled_from([0.1, 5.0]),
    "devices": st.just(2),
    "dropout": st.sampled_from([0.3, 1.0]),
    "eval_batch_size": st.sampled_from([1, 7]),
    "eval_every": st.sampled_from([2, 3]),
    "evaluate_on": st.sampled_from(["common", "both"]),
    "failures": st.sampled_from([0.3, 1.0]),
    "fidelity": st.just("reference"),
    "keep_features": st.sampled_from([1, 30]),
    "keep_models": st.just("last"),
    "keep_state": st.just(True),
    "last_batch": st.just("drop"),
    "local_epochs": st.sampled_from([0.1, 0.5, 2.0, 1.5]),
    "local_steps": st.sampled_from([1, 3]),
    "momentum": st.sampled_from([0.5, 0.9]),
    "num_samples": st.sampled_from([5, 12]),
    "optimizer": st.sampled_from(["adam", "adamw"]),
    "participation": st.sampled_from([0.01, 0.5]),
    "partition": st.sampled_from(["iid", "pathological"]),
    "pooled_clients": st.integers(1, 3),
    "precision": st.just("bfloat16"),
    "schedule": st.sampled_from(["cosine", "exponential:0.5", "step:1:0.1"]),
    "seed": st.sampled_from([1, 2**32 - 1]),
    "shuffle": st.just(False),
    "sizes": st.sampled_from(["lognormal:0.5", "lognormal:2"]),
    "split": st.just("own"),
    "stragglers": st.sampled_from([0.5, 1.0]),
    "train_fraction": st.sampled_from([0.1, 0.99, 1.0]),
    "validation_fraction": st.sampled_from([0.1, 0.9]),
    "vmap_clients": st.sampled_from([1, 2]),
    "weight_decay": st.sampled_from([0.01]),
}

# What would be refused beside another field, which goes first.
EXCLUDED_BY = {
    "local_epochs": "local_steps",
    "momentum": "optimizer",
    "weight_decay": "optimizer",
    "last_batch": "fidelity",
    "shuffle": "fidelity",
    "sizes": "partition",
    "alpha": "partition",
}


@st.composite
def cases(draw):
    """Settings by name, and what the data are to be like."""
    method = draw(st.sampled_from(sorted(methods.METHODS)))
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=7, unique=True))
    group = methods.METHODS[method].settings
    own = {}
    for name in draw(st.lists(st.sampled_from([*settings.fields(group), None]), max_size=2)):
        probe = settings.fields(group)[name].metadata if name else {}
        if probe.get("choices"):
            own[name] = draw(st.sampled_from(probe["choices"]))
        elif probe.get("probe"):
            own[name] = draw(st.sampled_from(probe["probe"]))
    names = [name for name in names if EXCLUDED_BY.get(name) not in names]
    one_model = method in ("fedavg", "lg_fedavg", "fedgh")
    return {
        "settings": {
            "method": method,
            "method_settings": own,
            "family": "mlp" if one_model else draw(st.sampled_from(FAMILIES)),
            "num_clients": draw(st.integers(1, 4)),
            "min_samples": 1,
            "feature_dim": draw(st.sampled_from([2, 8])),
            "learning_rate": draw(st.sampled_from([0.001, 0.02])),
            "batch_size": 8,
            "rounds": 2,
            "devices": 1,
            "alpha": 1.0,
            **{name: draw(FIELDS[name]) for name in names},
        },
        "samples": draw(st.sampled_from([1, 2, 3, 6, 12, 12, 40, 40, 40, 90, 90, 90])),
        "classes": draw(st.sampled_from([2, 5])),
        "shape": draw(st.sampled_from([[8, 8, 1], [8, 8, 3], [16, 16, 1]])),
        "loses_its_state": draw(st.booleans()),
    }


@functools.cache
def drawn(number):
    """The case of a number, the same for the same `FUZZ_SEED`."""
    found = []

    @seed(SEED * 100_000 + number)
    @hypothesis_settings(
        max_examples=2,  # The first is the simplest there is, whatever the seed.
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def keep(case):
        found.append(case)

    keep()
    return found[-1]


# Cases of seed 0 that compile fast, of different methods.
FEW = (22, 30, 40, 55, 66)


class StopsEarly:
    """A display that asks for a stop after the first call of the program."""

    def plan(self, planned):
        pass

    def start(self, simulation, round_index=0):
        pass

    def add(self, step):
        os.kill(os.getpid(), signal.SIGTERM)


def write_data(case, path):
    generator = np.random.default_rng(case["samples"])
    labels = np.arange(case["samples"]) % case["classes"]
    bright = (200 * labels / max(case["classes"] - 1, 1)).astype(int)[:, None, None, None]
    noise = generator.integers(0, 50, (case["samples"], *case["shape"]))
    np.savez(path, images=(bright + noise).astype(np.uint8), labels=labels)


def given_settings(case, path):
    """With the data, which are their own test part where one is asked for."""
    parts = {"test_data": str(path)} if case["settings"].get("split") == "own" else {}
    return {**case["settings"], "data": str(path), **parts}


def check_records(folder, status):
    """What is written is JSON, and says how the run ended."""
    for name in ("config.json", "manifest.json", "summary.json"):
        json_files.read(folder / name)
    json_files.parse_lines((folder / "metrics.jsonl").read_text())
    assert json_files.read(folder / "summary.json")["status"] == status


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """A case's programs are traced and compiled once for all of its runs."""
    made, compile_plan = {}, driver.compile_plan

    def compile_or_take(plan):
        key = plan.runs[0].config, plan.spread
        if key not in made:
            made[key] = compile_plan(plan)
        return made[key]._replace(plan=plan)

    monkeypatch.setattr(driver, "compile_plan", compile_or_take)


def check(case, folder, capsys, *, refusable=True):
    """Runs, verifies, stops and resumes."""
    print(json.dumps(case))
    write_data(case, folder / "data.npz")
    chosen = folder / "chosen.json"
    chosen.write_text(json.dumps(given_settings(case, folder / "data.npz")))
    whole, again = folder / "whole", folder / "again"
    capsys.readouterr()
    code = cli.main(["run", "--config", str(chosen), "--out", str(whole)])
    complaints = capsys.readouterr().err.splitlines()
    if code:
        assert code == 2 and len(complaints) == 1, complaints
        assert "a bug" not in complaints[0]
        if "loss must be finite" in complaints[0]:
            check_records(whole, "failed")
        else:
            assert not whole.exists(), sorted(whole.iterdir())
        assert refusable, complaints[0]
        pytest.skip(complaints[0])
    assert complaints == []
    check_records(whole, "finished")
    rows = (whole / "metrics.jsonl").read_bytes()
    assert rows.count(b"\n") == (2 if case["settings"].get("eval_every", 1) == 1 else 1)

    assert cli.main(["verify", str(whole)]) == 0, capsys.readouterr().out
    assert cli.main(["resume", str(whole)]) == 0
    assert (whole / "metrics.jsonl").read_bytes() == rows

    stopped = job.run(config.load(chosen), again, display=StopsEarly())
    if stopped["status"] == "stopped":
        check_records(again, "stopped")
        if case["loses_its_state"]:
            shutil.rmtree(again / checkpoint.FOLDER)
        assert cli.main(["resume", str(again)]) == 0, capsys.readouterr().err
    check_records(again, "finished")
    assert (again / "metrics.jsonl").read_bytes() == rows
    assert cli.main(["compare", str(whole), str(again)]) == 0


@pytest.mark.parametrize(
    "number",
    [one if one in FEW[:1] else pytest.param(one, marks=pytest.mark.large) for one in FEW],
)
def test_a_few(number, tmp_path, capsys):
    check(drawn(number), tmp_path, capsys, refusable=False)


@pytest.mark.fuzz
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(COUNT))
def test_many(number, tmp_path, capsys):
    check(drawn(number), tmp_path, capsys)
