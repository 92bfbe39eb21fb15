"""Where the rows of a run go besides its own files: TensorBoard, Weights & Biases, MLflow."""

from protonorm_jax.dashboards.dashboard import numbers as numbers
from protonorm_jax.dashboards.session import NAMES as NAMES
from protonorm_jax.dashboards.session import Log as Log
from protonorm_jax.dashboards.session import Session as Session
from protonorm_jax.dashboards.session import check as check
