"""What is recorded of a run beside its results: settings, and all else that its bits depend on."""

import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from protonorm_jax import keys, methods
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.running import conditions, driver, holdings
from protonorm_jax.running.driver import Simulation

_PACKAGES = ("protonorm_jax", "jax", "jaxlib", "flax", "optax", "chex", "numpy")


def recorded_config(config: Config) -> dict[str, Any]:
    """A config as it is written.

    With the user's file that its method came from, if it did, and the directories that the paths
    in it are relative to.
    """
    file = methods.METHODS.files.get(config.method)
    bases = config.relative_to()
    return (
        config.to_dict()
        | ({"methods_file": file._asdict()} if file else {})
        | ({"relative_to": bases} if bases else {})
    )


def check_methods_file(config: dict[str, Any], *, equal: bool = True) -> str | None:
    """Asks for the user's file that the method of a recorded config came from.

    Args:
      config: as it was written.
      equal: whether another content of the file is refused.

    Returns:
      If the content is another one, what to say of it.

    Raises:
      UsageError: the file was not given, or is not the same.
    """
    recorded = config.get("methods_file")
    if not recorded:
        return None
    method = config["method"]
    given = methods.METHODS.files.get(method)
    if given is None:
        raise UsageError(
            f"--methods must be given for method {method}, which came from {recorded['path']} "
            f"with SHA-256 {recorded['digest']}"
        )
    if given.digest == recorded["digest"]:
        return None
    said = f"SHA-256 {recorded['digest']} of {recorded['path']}, got {given.digest} of {given.path}"
    if equal:
        raise UsageError(f"--methods must be the file of the run, {said}")
    return f"file of methods: {said}"


def of(simulation: Simulation, index: int = 0, data_digest: str | None = None) -> dict[str, Any]:
    """What else, beside the config, the bits of run `index` depend on.

    Args:
      simulation: compiled.
      index: into `plan.runs`.
      data_digest: of the data, see `conditions.data_digest`; made here if left out.
    """
    plan = simulation.plan
    device, run = plan.devices[0], plan.runs[index]
    return {
        "versions": {name: metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": len(plan.devices),
            "processes": jax.process_count(),
            "machine": platform.machine(),
        },
        "git_commit": _git_commit(),
        "config_digest": run.config.digest(),
        "data_digest": data_digest or conditions.data_digest(plan.dataset),
        "partition_digest": conditions.partition_digest(run.partition),
        **({"initial_digest": plan.initial.digest} if plan.initial else {}),
        "flags": conditions.flags(),
        "key": {
            "impl": "threefry2x32",
            "data": jax.random.key_data(keys.root(run.config.seed)).tolist(),
            "partitionable": jax.config.jax_threefry_partitionable,  # type: ignore[attr-defined]
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "bytes_per_device": simulation.bytes_per_device,
        "expected_bytes_per_device": plan.memory._asdict(),
        "runs_per_program": plan.runs_per_program,
        "vmapped": {
            "runs": plan.spread.vmap_runs,
            "clients": max(one.together for one in plan.program.architectures),
        },
        "efficiency": plan.efficiency._asdict(),
        "product_operands": product_operands(run.config.precision, device.platform),
        "majority_accuracy": driver.majority_accuracy(plan, index),
        "predictor": simulation.predictor,
        **holdings.described(plan, index),
    }


def product_operands(precision: str, platform: str) -> str:
    """To what the operands of convolutions and matrix products are rounded.

    Args:
      precision: see `Config`.
      platform: of the devices.
    """
    asked: str | None = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    by_default = {"tpu": "bfloat16", "gpu": "float32, or tensorfloat32 where the GPU has it"}
    return asked or (precision if precision != "float32" else by_default.get(platform, precision))


def _git_commit() -> str | None:
    """The commit that the package's source is at, `-dirty` if changed; None without git."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        describe = subprocess.run(
            (*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        tracked = subprocess.run(
            (*git, "ls-files", "--error-unmatch", __file__), capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # An installed copy may lie inside a repository that is not ours.
    return describe.stdout.strip() if tracked.returncode == 0 else None
