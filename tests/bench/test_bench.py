import contextlib
import json
import operator
import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.bench import (
    alignment,
    client_step,
    compilation,
    federated_round,
    harness,
    memory,
    method_round,
    participation,
    processes,
    profile,
    scale,
    server_step,
    start,
    tables,
    timing,
)

FEDERATION = harness.Federation("mlp", 2, num_runs=2)


@pytest.fixture(scope="module", autouse=True)
def compile_sooner():
    """Programs of which nobody wants to know how fast they are; child processes have them, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def here():
    """Everything runs in this process, and every federation is the same compiled one."""
    simulation = harness.compiled(FEDERATION)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "child", lambda stack, **_: lambda f, *given: f(*given))
        patch.setattr(harness, "compiled", lambda federation: simulation)
        yield


def printed(section, figures):
    """The headers of its tables, every one of which can be printed."""
    return {str(column.header) for table in section.tables(figures) for column in table.columns}


def test_the_command_prints_tables_and_adds_lines_to_its_history(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")  # As the command sets it.
    from experiments.bench import __main__ as command

    quickest = {name: {"method": "simplex"} for name in ("simplex", "thomson")}
    monkeypatch.setattr(alignment, "METHODS", quickest)
    monkeypatch.setitem(command.QUICK["alignment"], "most_points", 10)  # The same program.
    history = tmp_path / "new" / "history.jsonl"
    for sections in ("schedule", "schedule,alignment"):
        command.main(["--quick", "--only", sections, "--no-torch", "--history", str(history)])

    text = capsys.readouterr().out
    assert all(part in text for part in ("no side-by-side", "imbalance by turns", "min angle"))
    _, line = history.read_text(encoding="utf-8").splitlines()
    entry = json.loads(line)
    assert entry["quick"] and entry["device"]["platform"]
    assert {"jax", "jaxlib", "flax", "numpy", "python"} <= entry["versions"].keys()
    assert {"git_commit", "load_average"} <= entry.keys()
    row = entry["sections"]["alignment"]["methods"]["10"]["simplex"]
    assert row["relative_gap"] < 1e-5 and row["milliseconds"] > 0 and row["compile_seconds"] > 0
    for row in entry["sections"]["schedule"].values():
        assert 1 <= row["waste"] <= min(row["worst_waste"], row["padded_waste"])
        assert row["worst_waste"] <= 1.15 and row["imbalance"] >= 1
    with pytest.raises(SystemExit):
        command.main(["--only", "alignments"])
    assert ",".join(command.SECTIONS) in capsys.readouterr().err


@pytest.fixture
def compiling(tmp_path, monkeypatch):
    """A table of one program, what a program takes now, and versions; none is compiled."""
    made = {"target": "v5e:1x1", "seconds": 8.0, "cpu_seconds": 9.0, "code": 1000}
    made["temporaries"] = 0
    versions = {"jax": "1", "libtpu": "2"}
    table = {"versions": versions, "programs": {"tiny": made}}
    monkeypatch.setattr(compilation, "PATH", tmp_path / "compilation.json")
    compilation.PATH.write_text(json.dumps(table))
    now = made | {"seconds": 80.0, "code": 1050}
    monkeypatch.setattr(compilation, "_compiled", lambda name: dict(now))
    monkeypatch.setattr(compilation, "_versions", lambda: versions)
    return now, versions


def test_bytes_of_programs_are_held_against_the_table_and_seconds_are_not(compiling):
    now, versions = compiling
    figures = compilation.measure(["tiny"])
    assert compilation.excesses(figures) == []
    now["code"] = 1051
    figures = compilation.measure(["tiny", "mlp,cnn"])
    (line,) = compilation.excesses(figures)
    assert line.startswith("tiny must have <= 1050 bytes of code on v5e:1x1")
    assert line.endswith("1.05 times those of compilation.json, got 1051")
    assert printed(compilation, figures) >= {"CPU s", "code MiB", "temp MiB", "ratio"}
    now |= {"code": 1000, "temporaries": 1}
    assert "bytes of temporaries" in compilation.excesses(compilation.measure(["tiny"]))[0]
    versions["libtpu"] = "3"
    assert compilation.excesses(compilation.measure(["tiny"])) == []
    del versions["libtpu"]
    assert compilation.measure() == {} and compilation.excesses({}) == []
    (table,) = compilation.tables({})
    assert "libtpu is not installed" in table.caption


def test_the_table_of_compiled_programs_is_written_anew_by_one_command(compiling, capsys):
    now, versions = compiling
    now["code"] = 2000
    assert compilation.main(["mlp,cnn"]) == 0
    assert list(compilation.read()["programs"]) == ["tiny", "mlp,cnn"]
    assert compilation.read()["programs"]["tiny"]["code"] == 1000
    assert compilation.main([]) == 0
    made = compilation.read()
    assert list(made["programs"]) == list(compilation.PROGRAMS)
    assert {row["code"] for row in made["programs"].values()} == {2000}
    versions["jax"] = "3"  # What is known of others is forgotten.
    assert compilation.main(["tiny"]) == 0
    assert compilation.read() == {
        "versions": versions,
        "programs": {"tiny": {name: now[name] for name in made["programs"]["tiny"]}},
    }
    with pytest.raises(SystemExit):
        compilation.main(["tinny"])
    assert "PROGRAM must be one of tiny; tiny, fml; mlp,cnn, got 'tinny'" in capsys.readouterr().err


def test_the_table_of_compiled_programs_is_of_those_that_are_compiled():
    made = compilation.read()
    assert {name: row["target"] for name, row in made["programs"].items()} == {
        name: target for name, (target, *_) in compilation.PROGRAMS.items()
    }
    assert set(made["versions"]) == {"jax", "libtpu"}


@pytest.mark.large
def test_the_scale_of_runs_clients_and_devices(here):
    sizes = {"client_counts": (2,), "device_counts": (1,), "memory_of": (FEDERATION,)}
    figures = scale.measure(family="mlp", run_counts=(1, 2), model="mlp", repetitions=1, **sizes)

    assert {"a run", "ms a step", "efficiency", "estimate"} <= printed(scale, figures)
    first, second = figures["runs"]
    assert second["cost_of_a_run"] == pytest.approx(second["seconds"] / first["seconds"] / 2)
    (row,) = figures["clients"]
    assert row["milliseconds_a_step"] == pytest.approx(1e3 * row["seconds"] / (2 * 128 // 32))
    parameters = 2 * (64 * 64 + 64) + 512 * 10 + 10
    assert row["model_bytes"] == 2 * 2 * 4 * parameters < 2 * row["bytes_a_client"]  # Of two runs.
    assert row["data_bytes"] == 2 * 85 * (8 * 8 + 4)
    first, second = figures["weak"]
    assert (first["devices"], first["efficiency"], second["devices"]) == ("1, on one core", 1, "1")
    (row,) = figures["memory"]
    assert row["program"] == "mlp, 2 clients, 2 runs"
    assert row["estimate_bytes"] == sum(row["estimate_parts"].values())
    assert row["estimate_over_needed"] == row["estimate_bytes"] / row["needed_bytes"]


@pytest.mark.large
def test_the_memory_of_programs_before_and_after_compilation(monkeypatch):
    """In this process."""
    here = contextlib.nullcontext(lambda function, *given: function(*given))
    monkeypatch.setattr(processes, "child", lambda **_: here)
    figures = memory.measure(
        target_names=("here",), family="mlp", names=("local",), of_many=(), of_paper=()
    )
    assert {"states", "temporaries", "ratio"} <= printed(memory, figures)
    (row,) = figures["programs"]
    assert row["program"] == "here, local, mlp, 1 run" and row["code_ratio"] is None
    for one in (row["expected"], row["needed"]):
        assert one["total"] == sum(one.values()) - one["total"] > 0
    assert row["ratio"] == row["expected"]["total"] / row["needed"]["total"]


@pytest.mark.large
def test_a_step_and_a_round_with_the_floor_of_its_memory(here):
    steps = client_step.measure(("mlp",), 2, 1, (64, 1), beside_torch=False)
    rounds = federated_round.measure("mlp", 2, 1, num_devices=(1,), beside_torch=False)

    assert {"roofline", "2 devices"} <= printed(client_step, steps)
    assert {"train steps", "needed / floor"} <= printed(federated_round, rounds)
    step, row = steps["mlp"], rounds["1"]
    assert step["milliseconds"]["jax"] > 0 and step["two_devices"]["milliseconds"] > 0
    assert row["seconds"]["jax"] > 0 and row["train_steps"] == 2 * 128 // 32
    memory = row["memory"]
    parts = (memory[f"{part}_bytes"] for part in ("model", "data", "activation"))
    assert memory["ratio"] == memory["needed_bytes"] / sum(parts)
    assert memory["activation_bytes"] == round(step["temp_mib"] * 2**20)
    assert memory["least_activation_bytes"] == step["work"]["activation_bytes"]


@pytest.mark.large
def test_a_round_of_a_method_beside_local_training(here):
    figures = method_round.measure(("fedproto",), 2, 1)
    assert {"method / local", "MiB a device"} <= printed(method_round, figures)
    row = figures["fedproto"]
    times = row["milliseconds"]
    assert row["over_local"] == times["method"] / times["local"] > 0 and row["family"] == "tiny"


@pytest.mark.large
def test_a_round_of_few_participants_beside_a_lean_program(monkeypatch):
    """In this process, of federations of its own."""
    monkeypatch.setattr(harness, "child", lambda stack, **_: lambda f, *given: f(*given))
    figures = participation.measure((("mlp", (4,)),), (1.0, 0.5), 1)
    assert {"engine / lean", "over wanted"} <= printed(participation, figures)
    full, half = figures["rows"]
    assert (full["participants"], half["participants"]) == (4, 2)
    times = half["milliseconds"]
    assert half["over_lean"] == times["engine"] / times["lean"] > 0
    assert half["share_of_full"] == full["milliseconds"]["engine"] / 2
    assert half["over_wanted"] == times["engine"] / (1.1 * half["share_of_full"] + 0.2)


@pytest.mark.large
def test_the_work_of_a_server(here, monkeypatch):
    """Six pairs in one batch, two epochs; backward takes twice as much as forward."""
    monkeypatch.setattr(server_step, "NUM_CLIENTS", 2)
    case = server_step.Case("fedtgp", 3, (("server_epochs", 2),))
    figures = server_step.measure((case,), 1, beside_torch=False)
    assert {"CPU ms", "GFLOP/s", "jax / torch"} <= printed(server_step, figures)
    row = figures["fedtgp, 3 classes"]
    products = 2 * 2 * 3 * 512**2 + 2 * 32 * 3 * 512
    assert row["flops"] == 3 * 2 * products
    assert row["gigaflops"] == row["flops"] / row["cpu_milliseconds"]["jax"] / 1e6


@pytest.mark.large
def test_the_first_accuracy_of_a_run_is_seen(tmp_path):
    settings = ("--method", "local", "--family", "mlp", "--num-clients", "1", "--devices", "1")
    assert start._seconds(settings, tmp_path, "cold") > 0


def test_a_process_of_its_own_knows_the_most_that_it_held():
    with processes.child(one_core=True) as call:
        size = 2 * call(processes.peak_bytes)
        call(operator.mul, b"x", size)
        assert call(processes.peak_bytes) >= size
        assert call(processes.num_cores) == 1 or not hasattr(processes.os, "sched_setaffinity")


def test_medians_are_of_times_taken_by_turns_and_a_table_prints_values():
    order = []
    clocks = {name: lambda name=name: order.append(name) or timing.Times(1.0, 2.0) for name in "ab"}
    assert timing.medians(clocks, repetitions=2)["a"].over(2) == (0.5, 1.0)
    assert order == ["a", "b", "a", "b"]

    row = tables.values({"a": {"b": 3 * 2**20}, "c": None, "name": "net"}, "name a.b c.d")
    columns = tables.table("", "x | MiB:.1fM | none:.1f", [row]).columns
    cells = [(*column.cells, column.justify) for column in columns]
    assert cells == [("net", "left"), ("3.0", "right"), ("-", "right")]


@pytest.mark.large
def test_a_profile_is_written_and_operations_within_others_count_once(here, tmp_path, capsys):
    profile.main(["--family", "mlp", "--num-clients", "2", "--out", str(tmp_path)])
    (folder,) = (tmp_path / "plugins" / "profile").iterdir()
    totals = profile.read(folder)
    assert totals == sorted(totals, key=lambda total: -total.milliseconds)
    assert all(total.calls > 0 for total in totals) and totals[0].kind in capsys.readouterr().out

    events = [(0, 100, "loop"), (10, 30, "body"), (15, 5, "leaf"), (50, 40, "body"), (100, 7, "x")]
    own = [("loop", 30), ("body", 25), ("leaf", 5), ("body", 40), ("x", 7)]
    assert profile.own_times(events) == own
