"""The job files of `experiments/launch/`, on scripts that stand in for a real cluster."""

import json
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import time

import jax
import pytest
import yaml

from protonorm_jax import data
from protonorm_jax.running import reading
from recorded import assert_same, without_times

LAUNCH = pathlib.Path(__file__).parents[2] / "experiments" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
OURS = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m protonorm_jax "$@"\n'
# Says what it was called with, and ends with the next of the codes that are waiting in a file.
CALLED = """#!/bin/sh
echo "$0 $*" | sed 's|.*/bin/||' >> calls
code=$(head -n 1 codes 2>/dev/null)
sed -i 1d codes 2>/dev/null
exit "${code:-0}"
"""


def container():
    job = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text())
    return job["spec"], job["spec"]["template"]["spec"]["containers"][0]


def put(folder, **scripts):
    """Puts scripts where commands are looked for first; returns the environment."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    for name, text in scripts.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return os.environ | {"PATH": f"{place}:{os.environ['PATH']}"}


def test_a_linter_has_nothing_to_say(tmp_path):
    _, one = container()
    inline = tmp_path / "kubernetes.sh"
    inline.write_text("#!/bin/sh\n" + one["args"][0] + "\n")
    shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
    said = subprocess.run(
        [shellcheck, *SCRIPTS, inline], stdout=subprocess.PIPE, text=True, check=False
    )
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (143, True), (2, False)])
def test_a_slurm_task_comes_back_if_it_was_stopped(tmp_path, code, requeued):
    environment = put(tmp_path, srun=CALLED, scontrol=CALLED)
    environment |= {"OUT": "results of mine", "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"}
    (tmp_path / "codes").write_text(f"{code}\n0\n")
    ended = subprocess.run(
        [LAUNCH / "slurm_array.sh", "--seeds", "8"], env=environment, cwd=tmp_path, check=False
    )
    assert ended.returncode == code
    first, *rest = (tmp_path / "calls").read_text().splitlines()
    assert first.startswith("srun protonorm sweep --shard auto --time-limit 3h50m")
    assert first.endswith("--out results of mine --seeds 8")
    assert rest == (["scontrol requeue 9_3"] if requeued else [])


GCLOUD = """#!/bin/bash
echo "$4" >> calls
case $4 in
  describe) state=$(head -n 1 states); sed -i 1d states; [ "$state" ] && echo "$state" ;;
  ssh) shift 6; eval "${1#--command=}" ;;
esac
"""


def test_a_tpu_slice_is_made_again_until_the_sweep_is_done(tmp_path):
    environment = put(tmp_path, gcloud=GCLOUD, protonorm=CALLED)
    environment |= {"NAME": "n", "ZONE": "z", "TYPE": "t", "OUT": "a b", "SETUP": "true"}
    states = ("", "CREATING", "READY", "PREEMPTED", "", "READY", "READY")
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    (tmp_path / "codes").write_text("255\n75\n0\n")
    script = [LAUNCH / "tpu_slice.sh", "--grid", "scale=1,20"]
    ended = subprocess.run(
        script, env=environment | {"PAUSE": "0"}, cwd=tmp_path, timeout=60, check=False
    )
    assert ended.returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    ours = [call for call in calls if call.startswith("protonorm")]
    wanted = "protonorm sweep --distributed --shard 1/1 --checkpoint-every 20 --out a b --grid"
    assert ours == [f"{wanted} scale=1,20"] * 3
    others = [call for call in calls if call not in ("describe", *ours)]
    assert others == ["create", "ssh", "delete", "create", "ssh", "ssh", "delete"]


def test_pods_have_numbers_from_nought(tmp_path):
    spec, one = container()
    values = {entry["name"]: entry["value"] for entry in one["env"]}
    assert int(values["NUM_SHARDS"]) == spec["completions"] == spec["parallelism"]
    environment = put(tmp_path, protonorm=CALLED) | values | {"JOB_COMPLETION_INDEX": "2"}
    subprocess.run([*one["command"], *one["args"]], env=environment, cwd=tmp_path, check=True)
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("protonorm sweep --shard 3/4 --checkpoint-every 20 --out /results")
    codes = {
        code: rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", ())
    }
    assert codes == {75: "Ignore", 2: "FailIndex"}


@pytest.mark.large
@pytest.mark.timeout(1800)
def test_four_tasks_that_are_killed_at_random_come_to_what_one_job_does(small_set, tmp_path):
    data.save_npz(small_set, tmp_path / "small.npz")
    settings = ["--data", str(tmp_path / "small.npz"), "--family", "mlp", "--num-clients", "4"]
    settings += ["--feature-dim", "8", "--rounds", "800", "--devices", "1", "--seeds", "6"]
    settings += ["--grid", "scale=1,20", "--runs-per-program", "1"]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    environment = put(tmp_path, protonorm=OURS, srun='#!/bin/sh\nexec "$@"\n', scontrol=CALLED)
    environment["JAX_COMPILATION_CACHE_DIR"] = str(jax.config.jax_compilation_cache_dir)
    environment.pop("XLA_FLAGS", None)
    subprocess.run(
        ["protonorm", "sweep", *settings, "--checkpoint-every", "20", "--out", str(whole)],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    generator = random.Random(0)
    counts = {number: 0 for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)}

    def start(task):
        here = {"OUT": str(shared), "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": str(task)}
        here |= {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "4"}
        return subprocess.Popen(
            [LAUNCH / "slurm_array.sh", *settings],
            env=environment | here,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def trains(task):
        """Whether a task has a run under way."""
        share = shared / "shards" / f"{task}-of-4" / "share.json"
        names = json.loads(share.read_text())["runs"] if share.exists() else []
        runs = [shared / "runs" / name for name in names]
        return any(
            (run / "metrics.jsonl").exists() and not reading.is_finished(run) for run in runs
        )

    def worker(process):
        """The number of the process that trains for a task; None if there is none yet."""
        listed = subprocess.run(
            ["pgrep", "-f", "-g", str(process.pid), "protonorm_jax"],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        found = listed.stdout.split()
        return int(found[0]) if found else None

    tasks = {task: start(task) for task in range(1, 5)}
    codes = []
    while tasks:
        time.sleep(generator.uniform(0.5, 2.0))
        for task, process in list(tasks.items()):
            if process.poll() is None:
                continue
            code, said = process.returncode, process.communicate()[0]
            codes.append(code)
            assert code in (0, 75, 128 + signal.SIGKILL, 128 + signal.SIGUSR1, 143), said
            del tasks[task]
            if code:
                tasks[task] = start(task)
        if tasks and sum(counts.values()) < 16:
            number = generator.choice(list(counts))
            task = generator.choice(list(tasks))
            chosen = worker(tasks[task])
            if chosen is not None and (trains(task) or generator.random() < 0.1):
                try:
                    os.kill(chosen, number)
                    counts[number] += 1
                except ProcessLookupError:
                    pass
    print(counts, codes)
    assert sum(counts.values()) >= 8 and codes.count(0) == 4
    assert without_times(shared / "results.jsonl") == without_times(whole / "results.jsonl")
    for run in sorted((whole / "runs").iterdir()):
        assert_same(run, shared / "runs" / run.name)
    assert {path.name for path in shared.iterdir()} == {path.name for path in whole.iterdir()}
