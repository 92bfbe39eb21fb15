"""Heterogeneous federated learning with prototype alignment and upscaling, in JAX."""

__version__ = "0.1.0"

from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.running import sweep
from protonorm_jax.running.driver import History, run
from protonorm_jax.types import Dataset, Model, Outputs

__all__ = ["Config", "Dataset", "History", "Model", "Outputs", "UsageError", "run", "sweep"]
