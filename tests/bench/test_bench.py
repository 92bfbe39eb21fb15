import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments import profile
from experiments.bench import federated_round, processes, roofline, timing

ROOT = Path(__file__).parent.parent


def bench(*arguments):
    return subprocess.run(
        (sys.executable, "-m", "experiments.bench", *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_quick_bench_measures_alignment_and_adds_a_line_to_its_history(tmp_path):
    history = tmp_path / "new" / "history.jsonl"

    result = bench("--quick", "--only", "alignment", "--no-torch", "--history", str(history))

    assert result.returncode == 0, result.stderr
    assert "simplex" in result.stdout
    assert "no side-by-side" in result.stdout
    (line,) = history.read_text(encoding="utf-8").splitlines()
    entry = json.loads(line)
    assert entry["quick"]
    assert entry["device"]["platform"]
    assert {"jax", "jaxlib", "flax", "numpy", "python"} <= entry["versions"].keys()
    assert "git_commit" in entry
    assert "load_average" in entry
    (methods,) = entry["sections"]["alignment"]["methods"].values()
    assert methods["simplex"]["relative_gap"] < 1e-5
    assert methods["reference, 500 steps"]["iterations"] == 500
    for figures in methods.values():
        assert figures["milliseconds"] > 0
        assert figures["compile_seconds"] > 0


def test_the_quick_bench_measures_steps_a_round_and_the_start(tmp_path):
    history = tmp_path / "history.jsonl"
    flags = ("--only", "client_step,round,schedule,start", "--no-torch", "--history", str(history))

    result = bench("--quick", *flags)

    assert result.returncode == 0, result.stderr
    sections = json.loads(history.read_text(encoding="utf-8"))["sections"]

    (step,) = sections["client_step"].values()
    assert step["milliseconds"]["jax"] > 0
    assert step["two_devices"]["milliseconds"] > 0
    assert step["roofline_bound"] in ("flop", "bytes")
    assert 0 < step["roofline_fraction"] < 2  # Both rates and steps are noisy.
    assert step["work"]["operations"] > 0

    (row,) = sections["round"].values()
    assert row["seconds"]["jax"] > 0
    assert row["train_steps"] == 2 * 128 // 32
    assert row["compile_seconds"] > 0
    assert row["peak_growth_bytes"] > 0
    memory = row["memory"]
    parts = ("model_bytes", "data_bytes", "activation_bytes")
    assert memory["floor_bytes"] == sum(memory[part] for part in parts)
    assert memory["data_bytes"] == 2 * 192 * (32 * 32 * 3 + 4)
    assert memory["model_bytes"] == step["work"]["parameter_bytes"]  # One client a device.
    assert memory["least_activation_bytes"] == step["work"]["activation_bytes"]
    assert memory["ratio"] == memory["needed_bytes"] / memory["floor_bytes"] >= 1

    for row in sections["schedule"].values():
        assert 1 <= row["waste"] <= row["worst_waste"] <= 1.15
        assert row["waste"] <= row["padded_waste"]
    assert sections["schedule"]["1"]["imbalance"] == 1 <= sections["schedule"]["2"]["imbalance"]

    start = sections["start"]
    assert start["cold"] > 0
    assert start["warm"] > 0


def test_the_quick_bench_measures_more_runs_and_clients_and_the_estimate_of_memory(tmp_path):
    history = tmp_path / "history.jsonl"

    result = bench("--quick", "--only", "scale", "--no-torch", "--history", str(history))

    assert result.returncode == 0, result.stderr
    figures = json.loads(history.read_text(encoding="utf-8"))["sections"]["scale"]

    alone, two = figures["runs"]
    assert (alone["num_runs"], two["num_runs"]) == (1, 2)
    assert alone["cost_of_a_run"] == 1
    assert two["cost_of_a_run"] == pytest.approx(two["seconds"] / alone["seconds"] / 2)

    (row,) = figures["clients"]
    assert row["num_clients"] == 2
    assert row["compile_seconds"] > 0
    assert row["milliseconds_a_step"] == pytest.approx(1e3 * row["seconds"] / (2 * 128 // 32))
    parameters = 4 * (64 * 64 + 64 + 64 * 64 + 64 + 64 * 512 + 512 + 512 * 10 + 10)
    assert row["bytes_a_client"] > parameters
    assert row["data_bytes"] == 2 * 160 * (8 * 8 + 4)

    (row,) = figures["weak"]
    assert row["devices"] == "1, on one core"
    assert row["efficiency"] == 1 and row["seconds"] > 0

    (row,) = figures["memory"]
    assert row["program"] == "mlp, 2 clients, 1 run"
    assert row["estimate_bytes"] == sum(row["estimate_parts"].values())
    assert row["estimate_over_needed"] == row["estimate_bytes"] / row["needed_bytes"]
    if Path("/proc/self/clear_refs").exists():
        assert row["measured_bytes"] > 2 * parameters


def test_the_bench_refuses_a_section_that_it_does_not_have():
    result = bench("--only", "alignments")

    assert result.returncode == 2
    assert "alignment,sphere,client_step,round,schedule,start,scale" in result.stderr


# MFLOP of one image, forward and backward, from a count that did not use this code.
MEGAFLOP = {
    "resnet8": 82.0,
    "mobilenet_v2": 36.3,
    "shufflenet_v2": 17.3,
    "efficientnet_b0": 50.4,
    "fedavg_cnn": 43.2,
}


@pytest.mark.parametrize("architecture", MEGAFLOP)
def test_operations_are_those_known(architecture):
    work = roofline.count(
        architecture, batch_size=4, image_shape=(32, 32, 3), num_classes=10, feature_dim=512
    )

    assert work.operations / 4e6 == pytest.approx(MEGAFLOP[architecture], abs=0.05)
    padded = architecture != "fedavg_cnn"
    assert (work.least_operations < work.operations) == padded


def test_operations_and_bytes_of_a_perceptron_are_those_of_its_three_layers():
    work = roofline.count("mlp", batch_size=2, image_shape=(4, 4, 1), num_classes=3, feature_dim=64)

    multiply_adds = 2 * 16 * 64, 2 * 64 * 64, 2 * 64 * 3
    parameters = 4 * (16 * 64 + 64 + 64 * 64 + 64 + 64 * 3 + 3)
    image, hidden, logits = (4 * 2 * size for size in (16, 64, 3))
    assert work.operations == 4 * multiply_adds[0] + 6 * multiply_adds[1] + 6 * multiply_adds[2]
    assert work.least_operations == work.operations
    assert work.parameter_bytes == parameters
    # Before and after the activation of both hidden layers.
    assert work.activation_bytes == image + 4 * hidden + logits
    traffic = [2 * image, 5 * hidden, 5 * hidden, 6 * hidden, 5 * hidden, 6 * logits]
    assert work.bytes == 6 * parameters + sum(traffic)


def test_taps_on_padding_are_not_among_the_least():
    # 3 taps at 4 positions; the first and the last position see one tap less.
    assert roofline._live_taps(size=4, taps=3, outputs=4, stride=1, padding=1) == 10
    assert roofline._live_taps(size=4, taps=3, outputs=2, stride=2, padding=1) == 5
    assert roofline._live_taps(size=1, taps=5, outputs=1, stride=1, padding=2) == 1


def test_the_roofline_is_the_longer_of_the_two_times():
    work = roofline.Work(
        operations=3000,
        least_operations=2000,
        bytes=1000,
        activation_bytes=1,
        parameter_bytes=1,
    )

    assert roofline.least_milliseconds(work, roofline.Rates(1e6, 1e6)) == (2.0, "flop")
    assert roofline.least_milliseconds(work, roofline.Rates(1e6, 1e5)) == (10.0, "bytes")


def test_rates_are_of_two_operations_and_of_reading_and_writing():
    rates = roofline.rates(product=2.0, stream=4.0, size=100, mebibytes=8)

    assert rates.operations == pytest.approx(2e6 / 2e-3)
    assert rates.bytes == pytest.approx(16 * 2**20 / 4e-3)


def hold_twice_the_peak():
    held = bytearray(b"x" * 2 * processes.peak_bytes())
    return processes.peak_bytes() / len(held)


def test_the_peak_of_memory_grows_with_what_is_held():
    """In a process that holds little, unlike that of the tests."""
    with processes.child(one_core=False) as call:
        assert call(hold_twice_the_peak) >= 1


def test_alternation_keeps_the_order_of_turns():
    order = []
    clocks = {name: lambda name=name: order.append(name) or timing.Times(1.0, 2.0) for name in "ab"}

    times = timing.alternate(clocks, repetitions=2)

    assert order == ["a", "b", "a", "b"]
    assert timing.median(times["a"]) == timing.Times(1.0, 2.0)


def test_a_profile_is_written_and_summed_up(tmp_path, capsys):
    profile.main(["--family", "mlp", "--num-clients", "2", "--out", str(tmp_path)])

    (folder,) = (tmp_path / "plugins" / "profile").iterdir()
    assert (folder / "perfetto_trace.json.gz").stat().st_size > 0
    totals = profile.read(folder)
    assert totals == sorted(totals, key=lambda total: -total.milliseconds)
    assert all(total.calls > 0 and math.isfinite(total.milliseconds) for total in totals)
    printed = capsys.readouterr().out
    assert totals[0].kind in printed
    assert "ui.perfetto.dev" in printed


def test_operations_within_others_are_counted_once():
    events = [(0, 100, "loop"), (10, 30, "body"), (15, 5, "leaf"), (50, 40, "body"), (100, 7, "x")]

    own = profile.own_times(events)

    assert own == [("loop", 30), ("body", 25), ("leaf", 5), ("body", 40), ("x", 7)]


def test_both_variants_of_torch_train_alike(tmp_path):
    torch = pytest.importorskip("torch")
    from experiments.bench import torch_round

    dataset = federated_round.random_dataset(2)
    train, test = np.arange(128).reshape(2, 64), np.arange(128, 192).reshape(2, 32)
    for variant in torch_round.ON_DISK:
        torch_round.prepare(
            variant,
            ("fedavg_cnn", "resnet8"),
            dataset.images,
            dataset.labels,
            train,
            test,
            num_threads=1,
            folder=str(tmp_path),
        )

    # There are no prototypes in the first round, so that their lag does not show yet.
    for client, net in enumerate(torch_round._federations["channels_last"].nets):
        saved = torch.load(tmp_path / f"model_{client}.pt", weights_only=False)
        for ours, theirs in zip(net.parameters(), saved.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert torch_round.time_round("NCHW").wall > 0
