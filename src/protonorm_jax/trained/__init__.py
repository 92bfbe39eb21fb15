"""What clients have learned, as files; and clients that predict, made of them."""

from protonorm_jax.trained.clients import TrainedClient as TrainedClient
from protonorm_jax.trained.clients import load_models as load_models
