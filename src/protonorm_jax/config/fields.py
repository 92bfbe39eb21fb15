"""Every setting of a run, checked once, with its help text; the command line is made from it."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from protonorm_jax import settings
from protonorm_jax.config import dealing, shown, training
from protonorm_jax.errors import UsageError

LAST_BATCHES = ("mask", "drop")
SPLITS = ("joined", "own")
EVALUATIONS = ("own", "common", "both")
PRECISIONS = ("float32", "bfloat16")
FIDELITIES = ("paper", "reference")
KEPT_MODELS = ("none", "last", "selected")

_T = TypeVar("_T")

_data = functools.partial(settings.setting, section="data")
_method = functools.partial(settings.setting, section="method")
_training = functools.partial(settings.setting, section="training")
_execution = functools.partial(settings.setting, section="execution")


def _faithful(cls: type[_T]) -> type[_T]:
    """Fills in what `fidelity` decides, from what was given and what was left out."""
    make = cls.__init__

    @functools.wraps(make)
    def expanded(self: Any, **given: Any) -> None:
        if given.get("fidelity") == "reference":
            given = settings.faithful("Config", cls, given)
            method = given.get("method", settings.fields(cls)["method"].default)
            own = given.get("method_settings", {})
            # What is no method or no mapping is refused below.
            if isinstance(own, Mapping) and method in list(settings.groups()):
                own = settings.faithful(method, settings.groups()[method], own)
                given["method_settings"] = own
        make(self, **dealing.who_deals(cls, given))

    cls.__init__ = expanded  # type: ignore[method-assign]
    return cls


@_faithful
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One federated run. Equal configs with equal versions on equal devices give equal bits.

    With `fidelity="reference"` all settings for which the published code does something else than
    the default are as there; what contradicts that is refused.

    Raises:
      UsageError: a value is outside its range; the message names field, rule and value.
    """

    data: str = _data(
        "digits",
        "digits, FILE.npz, pfllib:DIR, cifar:DIR, idx:DIR, folder:DIR, parquet:DIR or tfds:NAME",
        path="source",
    )
    inexact_pixels: bool = _data(
        False,
        "pfllib: take floats that are no whole pixels of 0..255 for the nearest ones",
        later=True,
    )
    image_size: int = _data(
        0,
        "side of the square that images are cut and resized to; 0 leaves them as they are",
        least=0,
        most=4096,
        later=True,
    )
    num_clients: int = _data(
        20,
        "number of clients; of groups: the largest ones; 0 for as many as the data, the file or "
        "the groups name, which is the default there",
        least=0,
    )
    partition: str = _data(
        "dirichlet",
        "how samples are dealt to clients: dirichlet, pathological, iid, file:FILE (indices by "
        "client), groups:FILE (of each sample its owner) or data (as the data themselves say)",
        path="source",
    )
    alpha: float = _data(0.1, "dirichlet: concentration; small is more skewed", above=0)
    classes_per_client: int = _data(2, "pathological: classes a client holds", least=1)
    min_samples: int = _data(10, "fewest samples a client may get", least=1)
    train_fraction: float = _data(
        0.75, "share of a client's samples to train on; the rest is for testing", above=0, most=1
    )
    sizes: str = _data(
        "",
        "iid, dirichlet: lognormal:SIGMA makes the clients' sizes proportional to exp(SIGMA * "
        "normal); by default they are as the partition leaves them",
        later=True,
    )
    split: str = _data(
        "joined",
        "joined: a set's training, validation and test parts are one, of which each client splits "
        "its share; own: the training part is dealt, and the test part given out by the classes "
        "that clients train on",
        choices=SPLITS,
        later=True,
    )
    test_data: str = _data(
        "",
        "a second set, as for --data, as the test part of the first; with --split own",
        later=True,
        path="source",
    )
    evaluate_on: str = _data(
        "own",
        "own: clients are tested on their own test samples; common: all on the same, which are "
        "the test part (--split own, --test-data) or else the test samples of all; or both",
        choices=EVALUATIONS,
        later=True,
    )
    group_labels: str = _data(
        "",
        "JSON or CSV file that maps labels to groups, which become the classes",
        later=True,
        path="file",
    )
    classes: str = _data(
        "", "keep these classes only, such as 0-4,7, and number them from 0", later=True
    )
    num_samples: int = _data(
        0,
        "keep so many samples only, of each class its share, the same for every seed; 0 for all",
        least=0,
        later=True,
    )
    method: str = _method("protonorm", "a federated method; `protonorm methods` lists them")
    method_settings: Mapping[str, Any] = _method(
        settings.Values(), "settings of the method that differ from its defaults"
    )
    fidelity: str = _method(
        "paper",
        "reference: as the published code does it, in everything that `protonorm methods NAME` "
        "and --help name so",
        choices=FIDELITIES,
        later=True,
    )
    family: str = _training(
        "tiny",
        "tiny, ht0, htfe2, ..., htm10, or model names with commas; client i gets model i modulo "
        "their count; + adds hidden layers to a head, as in mlp,resnet8+256",
    )
    shared_model: str = _training(
        "family",
        "model that all clients share beside their own, for methods with one; family: fedavg_cnn "
        "if the family has it, else the family's first",
        later=True,
    )
    feature_dim: int = _training(512, "length of features and prototypes", least=1)
    rounds: int = _training(100, "communication rounds", least=1)
    local_epochs: float = _training(
        1, "epochs a client trains each round; 0.5 for half of the steps, rounded up", above=0
    )
    local_steps: int = _training(
        0,
        "steps a client trains each round, in as many epochs as that takes; 0 for local-epochs",
        least=0,
        later=True,
    )
    batch_size: int = _training(32, "samples a step", least=1)
    optimizer: str = _training(
        "sgd",
        "of the clients; starts afresh in every round",
        choices=training.OPTIMIZERS,
        later=True,
    )
    learning_rate: float = _training(0.01, "of the clients' optimiser", above=0)
    schedule: str = _training(
        "constant",
        "the clients' learning rate over the rounds: constant; cosine, from all of it in the first "
        "round down to none after the last; exponential:0.99, times so much each round; or "
        "step:30:0.1, times so much every so many rounds",
        later=True,
    )
    momentum: float = _training(0.0, "of sgd", least=0, below=1, later=True)
    nesterov: bool = _training(False, "look ahead along the momentum", later=True)
    weight_decay: float = _training(
        0.0,
        "of all parameters of a client: times the parameters, added to the gradient, or with adamw "
        "to the step",
        least=0,
        later=True,
    )
    clip_norm: float = _training(
        0.0, "largest norm of a client's whole gradient; 0 for any", least=0, later=True
    )
    augment: str = _training(
        "none",
        "in training, crop images at random after padding them with black by an eighth of their "
        "side, flip them from left to right at random, or both: crop, flip or crop,flip",
        bare="crop,flip",
        later=True,
    )
    shuffle: bool = _training(True, "reorder a client's samples every epoch", reference=False)
    last_batch: str = _training(
        "mask",
        "train on the incomplete last batch, masked, or drop it",
        choices=LAST_BATCHES,
        reference="drop",
    )
    dropped_features: bool = _training(
        False,
        "in training, losses see features as the dropout before the head leaves them "
        "(efficientnet_b0, whose published code drops in place)",
        reference=True,
        later=True,
    )
    init_from: str = _training(
        "",
        "start from the nets of a run that has kept them (--keep-models): client i from its client "
        "i; the directory of that run",
        later=True,
        path="file",
    )
    pooled_clients: int = _training(
        0,
        "deal samples to so many clients, and then all of them to each of num-clients: with method "
        "local the most that sharing could bring; 0 for no such thing",
        least=0,
        later=True,
    )
    validation_fraction: float = _training(
        0.0,
        "share of each client's training samples that is set apart, by which the round that counts "
        "is selected",
        least=0,
        below=1,
        later=True,
    )
    participation: float = _training(1.0, "share of clients that train a round", above=0, most=1)
    dropout: float = _training(0.0, "chance that an upload is lost", least=0, most=1)
    failures: float = _training(
        0.0,
        "chance that a client drops out within a round: it uploads nothing, and loses what it has "
        "trained",
        least=0,
        most=1,
        later=True,
    )
    stragglers: float = _training(
        0.0,
        "share of the clients, drawn anew each round, that do only a part of their steps",
        least=0,
        most=1,
        later=True,
    )
    straggler_work: float = _training(
        0.2,
        "the least part that a straggler does; how much is drawn between it and all",
        least=0,
        most=1,
        later=True,
    )
    seed: int = _execution(0, "of the partition and of every random key", least=0, most=2**32 - 1)
    eval_every: int = _execution(1, "rounds between evaluations", least=1)
    eval_batch_size: int = _execution(64, "samples at once where nothing is trained", least=1)
    precision: str = _execution(
        "float32",
        "bfloat16: activations and the operands of convolutions and matrix products in 16 bits, "
        "for GPU and TPU; parameters, sums, batch norm, features and loss stay float32",
        choices=PRECISIONS,
    )
    keep_state: bool = _execution(
        False,
        "keep the final state, from which protonorm resume DIR --rounds N goes on",
        later=True,
    )
    keep_features: int = _execution(
        0,
        "keep the features of so many test samples at the end, equally many of each client",
        least=0,
        later=True,
    )
    keep_models: str = _execution(
        "none",
        "keep the net of every client at the end: last, of the last round, which is meant without "
        "a value; or selected, of the round that validation samples select",
        choices=KEPT_MODELS,
        bare="last",
        later=True,
    )
    checkpoint_every: int = _execution(
        0, "rounds between checkpoints; 0 makes one only when told to stop (SIGTERM)", least=0
    )
    devices: int = _execution(
        0, "devices to use; 0 takes all there are, and makes one of each core of a CPU", least=0
    )
    vmap_clients: int = _execution(
        0,
        "clients of one architecture trained in one vmapped step; 0 chooses: one after the other "
        "on CPU and TPU, all of a device on GPU",
        least=0,
    )

    def __post_init__(self) -> None:
        for name in settings.fields(Config):
            if name != "method_settings":
                value = settings.check("Config", Config, name, getattr(self, name))
                object.__setattr__(self, name, value)
        dealing.check_dealing(self)
        if self.local_epochs.is_integer():  # As recorded when there were no parts of epochs.
            object.__setattr__(self, "local_epochs", int(self.local_epochs))
        object.__setattr__(self, "augment", training.augmentation(self.augment))
        training.rates(self.schedule, 1)
        training.check_training(self)
        if self.method not in settings.groups():
            raise UsageError(
                f"Config.method must be one of {', '.join(settings.groups())}, got {self.method!r}"
                f"{settings.hint(self.method, settings.groups())}"
            )
        values = self.method_settings
        if not isinstance(values, Mapping):
            raise UsageError(f"Config.method_settings must be a mapping, got {values!r}")
        chosen = settings.complete(self.method, settings.groups()[self.method], values)
        object.__setattr__(self, "method_settings", settings.Values(chosen))

    def __repr__(self) -> str:
        return shown.text(self)

    def _repr_html_(self) -> str:
        return shown.html(self)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        values = {name: getattr(self, name) for name in settings.fields(Config)}
        return values | {"method_settings": dict(self.method_settings)}

    def relative_to(self) -> dict[str, str]:
        """The settings with a relative path, and the directory that each is relative to."""
        return {
            name: getattr(getattr(self, name), "base", os.getcwd())
            for name, kind in settings.paths(Config).items()
            if settings.relative_path(kind, getattr(self, name) or "")
        }

    def located(self) -> "Config":
        """The same settings, relative paths made absolute where they come from a record."""
        found = {
            name: settings.located(kind, getattr(self, name))
            for name, kind in settings.paths(Config).items()
            if getattr(self, name)
        }
        return self.replace(**found)

    def replace(self, **changes: Any) -> "Config":
        """The same settings but for some, checked again.

        Names that are not fields are settings of the method. With another method, the settings of
        the one before are dropped; with another fidelity, what the one before has decided.

        Raises:
          UsageError: an unknown name, or a value outside its range.
        """
        values = self.to_dict()
        method = changes.get("method", self.method)
        if method != self.method:
            values["method_settings"] = {}
        values = dealing.without_dealers(self, values, changes)
        if changes.get("fidelity", self.fidelity) != self.fidelity:
            own = settings.own_choices(settings.groups()[self.method], values["method_settings"])
            values = {**settings.own_choices(Config, values), "method_settings": own}
        own = {name: value for name, value in changes.items() if name in settings.fields(Config)}
        values |= own
        rest = {name: value for name, value in changes.items() if name not in own}
        values["method_settings"] = {**values["method_settings"], **rest}
        return Config(**values)

    def digest(self) -> str:
        """Sixteen hex digits that name this config: equal settings, equal digest."""
        own = settings.lasting(settings.groups()[self.method], self.method_settings)
        values = settings.lasting(Config, self.to_dict()) | {"method_settings": own}
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
