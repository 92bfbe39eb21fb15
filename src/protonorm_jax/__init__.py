"""Heterogeneous federated learning with prototype alignment and upscaling, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protonorm_jax.config import Config
    from protonorm_jax.errors import UsageError
    from protonorm_jax.running import sweep, tuning
    from protonorm_jax.running.driver import History, run
    from protonorm_jax.running.frames import load_results
    from protonorm_jax.trained import TrainedClient, load_models
    from protonorm_jax.types import Dataset, Model, Outputs

__version__ = "0.1.0"
__all__ = [
    "Config",
    "Dataset",
    "History",
    "Model",
    "Outputs",
    "TrainedClient",
    "UsageError",
    "load_models",
    "load_results",
    "run",
    "sweep",
    "tuning",
]

# Imported when they are asked for: jax does not start under every environment, and the command
# line wants to say so.
_PLACES = {
    "Config": "config",
    "Dataset": "types",
    "History": "running.driver",
    "Model": "types",
    "Outputs": "types",
    "TrainedClient": "trained",
    "UsageError": "errors",
    "load_results": "running.frames",
    "load_models": "trained",
    "run": "running.driver",
    "sweep": "running.sweep",
    "tuning": "running.tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PLACES[name]}")
    value = module if name in ("sweep", "tuning") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
