"""Every setting of a run, checked once, with its help text; the command line is made from it."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from protonorm_jax import json_files, settings
from protonorm_jax.errors import UsageError

PARTITIONS = ("dirichlet", "pathological", "iid")
LAST_BATCHES = ("mask", "drop")
PRECISIONS = ("float32", "bfloat16")
FIDELITIES = ("paper", "reference")

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
            if isinstance(own, Mapping) and method in list(settings.GROUPS):
                own = settings.faithful(method, settings.GROUPS[method], own)
                given["method_settings"] = own
        make(self, **given)

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

    data: str = _data("digits", "digits, FILE.npz, idx:DIR, folder:DIR or tfds:NAME")
    num_clients: int = _data(20, "number of clients", least=1)
    partition: str = _data("dirichlet", "how samples are dealt to clients", choices=PARTITIONS)
    alpha: float = _data(0.1, "dirichlet: concentration; small is more skewed", above=0)
    classes_per_client: int = _data(2, "pathological: classes a client holds", least=1)
    min_samples: int = _data(10, "fewest samples a client may get", least=1)
    train_fraction: float = _data(
        0.75, "share of a client's samples to train on; the rest is for testing", above=0, most=1
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
    local_epochs: int = _training(1, "epochs a client trains each round", least=1)
    batch_size: int = _training(32, "samples a step", least=1)
    learning_rate: float = _training(0.01, "of the clients' SGD", above=0)
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
    participation: float = _training(1.0, "share of clients that train a round", above=0, most=1)
    dropout: float = _training(0.0, "chance that an upload is lost", least=0, most=1)
    seed: int = _execution(0, "of the partition and of every random key", least=0, most=2**32 - 1)
    eval_every: int = _execution(1, "rounds between evaluations", least=1)
    eval_batch_size: int = _execution(64, "samples at once where nothing is trained", least=1)
    precision: str = _execution(
        "float32",
        "bfloat16: activations and the operands of convolutions and matrix products in 16 bits, "
        "for GPU and TPU; parameters, sums, batch norm, features and loss stay float32",
        choices=PRECISIONS,
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
        "on CPU, all of a device on GPU and TPU",
        least=0,
    )

    def __post_init__(self) -> None:
        for name in settings.fields(Config):
            if name != "method_settings":
                value = settings.check("Config", Config, name, getattr(self, name))
                object.__setattr__(self, name, value)
        if self.method not in settings.GROUPS:
            raise UsageError(
                f"Config.method must be one of {', '.join(settings.GROUPS)}, got {self.method!r}"
                f"{settings.hint(self.method, settings.GROUPS)}"
            )
        values = self.method_settings
        if not isinstance(values, Mapping):
            raise UsageError(f"Config.method_settings must be a mapping, got {values!r}")
        chosen = settings.complete(self.method, settings.GROUPS[self.method], values)
        object.__setattr__(self, "method_settings", settings.Values(chosen))

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        values = {name: getattr(self, name) for name in settings.fields(Config)}
        return values | {"method_settings": dict(self.method_settings)}

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
        if changes.get("fidelity", self.fidelity) != self.fidelity:
            own = settings.own_choices(settings.GROUPS[self.method], values["method_settings"])
            values = {**settings.own_choices(Config, values), "method_settings": own}
        own = {name: value for name, value in changes.items() if name in settings.fields(Config)}
        values |= own
        rest = {name: value for name, value in changes.items() if name not in own}
        values["method_settings"] = {**values["method_settings"], **rest}
        return Config(**values)

    def digest(self) -> str:
        """Sixteen hex digits that name this config: equal settings, equal digest."""
        own = settings.lasting(settings.GROUPS[self.method], self.method_settings)
        values = settings.lasting(Config, self.to_dict()) | {"method_settings": own}
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# Fields of configs that were recorded before settings belonged to methods.
_MOVED = ("proximity", "scale", "align", "weighting", "collect")


def without_unset(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What was recorded before settings belonged to methods, but for what was not set.

    None was the method's own default, and `collect` had a value for every method, also for those
    that it meant nothing to.
    """
    own = settings.fields(settings.GROUPS.get(method, settings.NoSettings))
    return {
        name: value
        for name, value in values.items()
        if name not in _MOVED or (value is not None and (name != "collect" or name in own))
    }


def from_dict(values: Mapping[str, Any]) -> Config:
    """A config from a mapping such as `to_dict` returns.

    Configs recorded when the settings of methods were fields of `Config` are taken too.

    Raises:
      UsageError: an unknown field, or a value outside its range.
    """
    values = dict(values)
    if "method_settings" not in values and any(name in values for name in _MOVED):
        moved = {name: values.pop(name) for name in _MOVED if name in values}
        method = values.get("method", Config.method)
        values["method_settings"] = without_unset(method, moved)
    known = settings.fields(Config)
    for name in values:
        if name not in known:
            raise UsageError(
                f"Config has no field {name!r}; its fields are {', '.join(known)}; settings of a "
                "method belong into method_settings"
            )
    return Config(**values)


def without_method(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a config file holds, but for its method and what belongs to it."""
    own = ("method", "method_settings", "methods_file", *_MOVED)
    return {name: value for name, value in values.items() if name not in own}


def load(path: str | Path) -> Config:
    """Reads a config from a JSON file, such as a run's `config.json`.

    Raises:
      UsageError: the file is missing, not JSON, not one object, or holds a bad setting.
    """
    return from_recorded(load_values(path))


def from_recorded(values: Mapping[str, Any]) -> Config:
    """As `from_dict`, of what a run or sweep has recorded.

    There may be a `methods_file` among it, of which nothing but the existence counts.

    Raises:
      UsageError: a bad setting, or a method that has not been loaded from its file.
    """
    values = dict(values)
    file = values.pop("methods_file", None)
    if isinstance(file, dict) and values.get("method") not in settings.GROUPS:
        raise UsageError(
            f"--methods must be given for method {values.get('method')}, which came from "
            f"{file.get('path')} with SHA-256 {file.get('digest')}"
        )
    return from_dict(values)


def load_values(path: str | Path) -> dict[str, Any]:
    """What a JSON file holds of a config.

    Raises:
      UsageError: the file is missing, not JSON, or not one object.
    """
    try:
        values = json_files.read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"config must be a readable JSON file, got {str(path)!r}: {error}"
        ) from error
    except ValueError as error:
        raise UsageError(f"config must be valid JSON, got {str(path)!r}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(
            f"config must hold one JSON object, got {json_files.kind(values)} in {str(path)!r}"
        )
    if not isinstance(values.get("method", ""), str):
        raise UsageError(f"Config.method must be text, got {values['method']!r} in {str(path)!r}")
    return values
