import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_quick_bench_measures_alignment_and_adds_a_line_to_its_history(tmp_path):
    history = tmp_path / "new" / "history.jsonl"
    arguments = ("--quick", "--only", "alignment", "--no-torch", "--history", str(history))

    result = subprocess.run(
        (sys.executable, "-m", "experiments.bench", *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )

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


def test_the_bench_refuses_a_section_that_it_does_not_have():
    result = subprocess.run(
        (sys.executable, "-m", "experiments.bench", "--only", "alignments"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert result.returncode == 2
    assert "alignment,sphere,client_step,round" in result.stderr
