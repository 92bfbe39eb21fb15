"""Clients that were trained, and predict as they did in their run."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from protonorm_jax import config, keys, methods, models
from protonorm_jax.config import Config
from protonorm_jax.data import pixels
from protonorm_jax.engine.compiling import compiler_options
from protonorm_jax.engine.program import client_shapes
from protonorm_jax.errors import UsageError
from protonorm_jax.methods import descent
from protonorm_jax.methods.method import Round, variables_of
from protonorm_jax.trained import files
from protonorm_jax.types import Client, Models, Variables, scaled


def load_models(directory: str | Path) -> list["TrainedClient"]:
    """The trained clients of a run that has kept its models.

    The arrays of a client are read when they are first needed.

    Args:
      directory: of the run, or the folder `models` in it.

    Returns:
      The clients in their order.

    Raises:
      UsageError: there are none, or their files or settings cannot be used.
    """
    run = _Run(files.find(directory))
    return [TrainedClient(run, client) for client in range(len(run.kept.clients))]


class TrainedClient:
    """A client as it was evaluated in the round after which it was kept.

    Attributes:
      client: its number.
      architecture: name of its model, as `models.build` takes it.
      method: name of the federated method.
      round: rounds that it has trained.
      num_classes: C.
      image_shape: `(height, width, channels)`.
      feature_dim: length of its features.
      predictors: names by which it predicts.
      predictor: that of the method's own paper, which is a result.
      train_by_class: `[C]` int64, its training samples of each class.
      data_digest: SHA-256 of the data set of the run.
    """

    def __init__(self, run: "_Run", client: int) -> None:
        described, own = run.kept.described, run.kept.clients[client]
        self._run = run
        self.client = client
        self.architecture: str = own["architecture"]
        self.method: str = described["method"]
        self.round: int = described["round"]
        self.num_classes: int = described["num_classes"]
        self.image_shape: tuple[int, ...] = tuple(described["image_shape"])
        self.feature_dim: int = described["feature_dim"]
        self.predictors: tuple[str, ...] = tuple(described["predictors"])
        self.predictor: str = described["predictor"]
        self.data_digest: str = described["data_digest"]
        self.train_by_class = np.zeros(self.num_classes, np.int64)
        for label, count in own["train_by_class"].items():
            self.train_by_class[int(label)] = count

    def __repr__(self) -> str:
        return f"TrainedClient({self.client}, {self.architecture!r}, round={self.round})"

    @functools.cached_property
    def state(self) -> Client:
        """All that the client keeps, its own net and what the method has beside it; numpy arrays.

        Raises:
          UsageError: its file is damaged.
        """
        file = self._run.kept.clients[self.client]["file"]
        shapes = files.by_net(self._run.net(self.architecture).shapes)
        place = str(self._run.kept.folder / file)
        return files.client_of(files.tree_of(self._run.kept.arrays(file), shapes, place))

    @property
    def variables(self) -> Variables:
        """Those of its own net, `{"params": ..., "batch_stats": ...}`, as `models.build` has them.

        Raises:
          UsageError: its file is damaged.
        """
        return variables_of(self.state)

    def predict(self, images: Any, by: str | None = None) -> np.ndarray:
        """Scores of images, by the same arithmetic as in the run.

        Args:
          images: `[B, height, width, channels]`, uint8; or floats in 0..255, 0..1 or -1..1, which
            are told apart by their least and greatest, and taken for the nearest of 256 levels as
            those of a data set are.
          by: one of `predictors`, such as `head` or `prototype`; by default `predictor`.

        Returns:
          `[B, C]` float32, the larger the better: logits of a head; for prototypes twice the inner
          product less the squared length, which is minus the squared distance but for the length of
          the features; -inf for classes without a prototype.

        Raises:
          UsageError: images of another shape, or no such predictor.
        """
        by = self.predictor if by is None else by
        if by not in self.predictors:
            raise UsageError(
                f"by must be one of {', '.join(self.predictors)} for method {self.method}, "
                f"got {by!r}"
            )
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise UsageError(
                f"images must be [B, {', '.join(map(str, self.image_shape))}], got "
                f"{list(images.shape)}"
            )
        if not len(images):
            return np.zeros((0, self.num_classes), np.float32)
        levels = _levels(images)
        score, size = self._run.net(self.architecture).score, self._run.config.eval_batch_size
        state = jax.device_put((self.state, self._run.sent))
        found = []
        for start in range(0, len(levels), size):
            batch = levels[start : start + size]
            missing = [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)]
            with jax.numpy_dtype_promotion("standard"):  # As in a run.
                scores = score(*state, np.pad(batch, missing), by)
            found.append(np.asarray(scores)[: len(batch)])
        return np.concatenate(found)


def _levels(images: np.ndarray) -> np.ndarray:
    """Pixels as uint8.

    Raises:
      UsageError: they are none.
    """
    if images.dtype == np.uint8:
        return images
    found = pixels.convert(images, None, "images")
    pixels.scale_of([found], "images", inexact=False)
    return found.levels


class _Net(NamedTuple):
    """What the clients of one architecture have in common.

    Attributes:
      shapes: of what a client keeps.
      score: `(client, sent, images, by) -> [B, C]`, jitted; `images` are uint8.
    """

    shapes: Client
    score: Callable[..., jax.Array]


class _Run:
    """The run that clients were trained in.

    Attributes:
      kept: their files.
      config: its settings.

    Raises:
      UsageError: settings that cannot be used.
    """

    def __init__(self, kept: files.Kept) -> None:
        described = kept.described
        self.kept = kept
        self.config: Config = config.from_recorded(described["config"])
        self._nets: dict[str, _Net] = {}
        self._setup = methods.Setup(
            described["num_classes"],
            self.config.feature_dim,
            len(kept.clients),
            self.config.rounds,
            self.config.batch_size,
        )
        own = self.config.method_settings
        self._method = methods.build(self.config.method, self._setup, own)

    def net(self, architecture: str) -> _Net:
        """Of an architecture; made once."""
        if architecture not in self._nets:
            self._nets[architecture] = self._make(architecture)
        return self._nets[architecture]

    def _make(self, architecture: str) -> _Net:
        both, method = self._models(architecture), self._method

        options = compiler_options(self.config.precision, jax.default_backend())

        @functools.partial(jax.jit, static_argnames="by", compiler_options=options or None)
        def score(client: Client, sent: Any, images: jax.Array, by: str) -> jax.Array:
            return method.predict(client, sent, scaled(images), models=both)[by]

        first = self._models(self.kept.clients[0]["architecture"])
        shapes = client_shapes(method, both, first, self._setup.num_classes)
        return _Net(shapes, score)

    def _models(self, architecture: str) -> Models:
        """The client's model, and the shared one if the method has any."""

        def build(name: str, feature_dim: int) -> Any:
            return models.build(
                name,
                num_classes=self._setup.num_classes,
                feature_dim=feature_dim,
                image_shape=tuple(self.kept.described["image_shape"]),
                precision=self.config.precision,
                dropped_features=self.config.dropped_features,
            )

        own, shared = build(architecture, self.config.feature_dim), self._method.shared
        name = self.kept.described.get("shared_model")
        if shared is None or name is None:
            return Models(own)
        if shared.architecture == "private":
            return Models(own, own)
        return Models(own, build(name, shared.feature_dim or self.config.feature_dim))

    @functools.cached_property
    def sent(self) -> Any:
        """What the server had sent, numpy; zeros where no predictor looks at it."""
        first = self._models(self.kept.clients[0]["architecture"])

        def make(key: jax.Array) -> Any:
            server = self._method.init_server(key, first, first.private.init(key))
            counts = jnp.zeros((self._setup.num_clients, self._setup.num_classes), jnp.int32)
            own = methods.settings_of(self.config.method, self.config.method_settings)
            own, chosen = jax.tree.map(jnp.float32, (own, descent.of(self.config)))
            round = Round(jnp.int32(0), jnp.float32(0), own, counts, descent=chosen)
            return self._method.broadcast(server, round)[0]

        shapes = jax.eval_shape(make, jax.eval_shape(lambda: keys.root(0)))
        server = self.kept.described["server"]
        if server is None:
            return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        place = str(self.kept.folder / server["file"])
        wanted = files.server_tree(shapes)
        return files.tree_of(self.kept.arrays(server["file"]), wanted, place)["sent"]
