"""Every setting of a run, checked once, with its help text; the command line is made from it."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from protonorm_jax import json_files, settings
from protonorm_jax.errors import UsageError

PARTITIONS = ("dirichlet", "pathological", "iid")
FIXED = ("data", "file:")
"""Partitions that say who holds what themselves: nothing is left to be dealt."""
DEALING = (
    "partition",
    "num_clients",
    "alpha",
    "classes_per_client",
    "min_samples",
    "train_fraction",
    "sizes",
)
"""The settings that say how samples are dealt to clients."""
LAST_BATCHES = ("mask", "drop")
SPLITS = ("joined", "own")
EVALUATIONS = ("own", "common", "both")
PRECISIONS = ("float32", "bfloat16")
FIDELITIES = ("paper", "reference")
OPTIMIZERS = ("sgd", "adam", "adamw")
AUGMENTATIONS = ("none", "crop", "flip", "crop,flip")

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
        make(self, **_who_deals(cls, given))

    cls.__init__ = expanded  # type: ignore[method-assign]
    return cls


def _who_deals(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves to data and files what these decide: clients that they name, and the test part."""
    result = dict(given)
    partition = settings.fields(cls)["partition"].default
    if str(given.get("data", "")).startswith("pfllib:"):
        result.setdefault("partition", "data")
    if str(result.get("partition", partition)).startswith((*FIXED, "groups:")):
        result.setdefault("num_clients", 0)
    if given.get("test_data"):
        result.setdefault("split", "own")
    return result


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
        "sgd", "of the clients; starts afresh in every round", choices=OPTIMIZERS, later=True
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
        _check_dealing(self)
        if self.local_epochs.is_integer():  # As recorded when there were no parts of epochs.
            object.__setattr__(self, "local_epochs", int(self.local_epochs))
        object.__setattr__(self, "augment", _augmentation(self.augment))
        rates(self.schedule, 1)
        self._check_training()
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

    def _check_training(self) -> None:
        """Refuses settings of the training that contradict each other."""
        if self.local_steps and self.local_epochs != 1:
            raise UsageError(
                f"Config.local_steps must be 0 or left out with local_epochs {self.local_epochs}, "
                f"got {self.local_steps}"
            )
        if self.momentum and self.optimizer != "sgd":
            raise UsageError(
                f"Config.momentum must be 0 or left out with optimizer {self.optimizer}, got "
                f"{self.momentum}"
            )
        if self.nesterov and not self.momentum:
            raise UsageError("Config.nesterov must be False with momentum 0, got True")

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
        values = _without_dealers(self, values, changes)
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


def _check_dealing(config: Config) -> None:
    """Refuses a partition that there is not, and settings that contradict clients that are fixed.

    Raises:
      UsageError: names the field, the rule and the value.
    """
    kind, _, argument = config.partition.partition(":")
    named = kind in ("file", "groups") and argument
    if config.partition not in (*PARTITIONS, "data") and not named:
        known = ", ".join((*PARTITIONS, "file:FILE", "groups:FILE"))
        hint = settings.hint(config.partition, PARTITIONS)
        raise UsageError(f"Config.partition must be one of {known}, got {config.partition!r}{hint}")
    if config.data.startswith("pfllib:") and config.partition != "data":
        raise UsageError(
            f"Config.partition must be left out for {config.data}, which says itself who holds "
            f"what, got {config.partition!r}"
        )
    if not config.num_clients and config.partition in PARTITIONS:
        raise UsageError("Config.num_clients must be >= 1, got 0")
    sigma_of(config.sizes)
    for name, reason in _meaningless(config).items():
        value = getattr(config, name)
        if value != settings.fields(Config)[name].default:
            raise UsageError(f"Config.{name} must be left out {reason}, got {value!r}")
    if config.test_data and config.split != "own":
        raise UsageError(f"Config.split must be own with test_data, got {config.split!r}")
    if config.sizes and config.partition not in ("iid", "dirichlet"):
        raise UsageError(
            "Config.sizes must be left out for partition pathological, where the classes that a "
            f"client holds decide how many samples it gets, got {config.sizes!r}"
        )


def sigma_of(sizes: str) -> float | None:
    """The SIGMA of `lognormal:SIGMA`; None where sizes are not asked for.

    Raises:
      UsageError: something else is asked for.
    """
    if not sizes:
        return None
    kind, _, text = sizes.partition(":")
    with contextlib.suppress(ValueError):
        if kind == "lognormal" and 0 <= float(text) <= 10:
            return float(text)
    raise UsageError(f"Config.sizes must be lognormal:SIGMA with SIGMA in [0, 10], got {sizes!r}")


def check_given(config: Config, names: Iterable[str]) -> None:
    """Refuses settings that were given though the clients are fixed, even with their defaults.

    Args:
      config: the settings.
      names: of those that were given, and not only left as they are.

    Raises:
      UsageError: names the field, the rule and the value.
    """
    for name, reason in _meaningless(config).items():
        if name in names:
            value = getattr(config, name)
            raise UsageError(f"Config.{name} must be left out {reason}, got {value!r}")


def _meaningless(config: Config) -> dict[str, str]:
    """The settings that mean nothing to these clients, and why."""
    place = config.data if config.partition == "data" else config.partition
    decided = f"for {place}, which says itself who holds what"
    result: dict[str, str] = {}
    if config.partition.startswith(FIXED):
        names = [name for name in DEALING if name not in ("partition", "num_clients")]
        result = dict.fromkeys(names, decided)
    if config.partition.startswith("groups:"):
        result = dict.fromkeys(("alpha", "classes_per_client", "sizes"), decided)
    if config.partition == "data":
        result |= dict.fromkeys(("test_data", "split"), decided)
    elif config.split == "own":
        reason = "with split own, where the test part is what is not trained on"
        result = {"train_fraction": reason} | result
    return result


def _without_dealers(
    config: Config, values: dict[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of a config that is to be changed, but for what its data or partition decided.

    As these may change, and a default is not told from a setting that was left out.
    """
    before, dropped = config.partition, []
    if changes.get("data", config.data) != config.data and before in ("data", "dirichlet"):
        dropped.append("partition")
    if changes.get("partition", before) != before or dropped:
        plain = settings.fields(Config)["num_clients"].default
        if before.startswith((*FIXED, "groups:")) or config.num_clients == plain:
            dropped.append("num_clients")
    if changes.get("test_data", config.test_data) != config.test_data:
        dropped.append("split")
    return {name: value for name, value in values.items() if name not in dropped}


def _augmentation(text: str) -> str:
    """One of `AUGMENTATIONS`, whose parts may be in any order and joined by + as well.

    Raises:
      UsageError: there is no such.
    """
    ordered = ",".join(sorted(text.replace("+", ",").split(",")))
    if ordered not in AUGMENTATIONS:
        raise UsageError(f"Config.augment must be none, crop, flip or crop,flip, got {text!r}")
    return ordered


def rates(schedule: str, rounds: int, length: int | None = None) -> list[float]:
    """What the clients' learning rate is multiplied with in each round.

    With r from 0 and R rounds these are 1 (`constant`), (1 + cos(pi r / R)) / 2 (`cosine`), G^r
    (`exponential:G`) and G^floor(r / N) (`step:N:G`). Only `cosine` depends on R.

    Args:
      schedule: its name and its numbers.
      rounds: R.
      length: for how many rounds; R by default.

    Raises:
      UsageError: there is no such schedule.
    """
    name, *given = schedule.split(":")
    length = length or rounds
    try:
        match name, given:
            case "constant", []:
                return [1.0] * length
            case "cosine", []:
                return [(1 + math.cos(math.pi * r / rounds)) / 2 for r in range(length)]
            case "exponential", [factor] if 0 < float(factor) <= 1:
                return [float(factor) ** r for r in range(length)]
            case "step", [every, factor] if int(every) >= 1 and 0 < float(factor) <= 1:
                return [float(factor) ** (r // int(every)) for r in range(length)]
    except ValueError:
        pass
    raise UsageError(
        "Config.schedule must be constant, cosine, exponential:FACTOR or step:ROUNDS:FACTOR with "
        f"factors above 0 and up to 1, got {schedule!r}"
    )


# Fields of configs that were recorded before settings belonged to methods.
_MOVED = ("proximity", "scale", "align", "weighting", "collect")


def without_unset(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What was recorded before settings belonged to methods, but for what was not set.

    None was the method's own default, and `collect` had a value for every method, also for those
    that it meant nothing to.
    """
    own = settings.fields(settings.groups().get(method, settings.NoSettings))
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

    There may be a `methods_file` among it, of which nothing but the existence counts, and the
    directories that paths are `relative_to`.

    Raises:
      UsageError: a bad setting, or a method that has not been loaded from its file.
    """
    values = dict(values)
    file = values.pop("methods_file", None)
    values = with_bases(values, values.pop("relative_to", None))
    if isinstance(file, dict) and values.get("method") not in settings.groups():
        raise UsageError(
            f"--methods must be given for method {values.get('method')}, which came from "
            f"{file.get('path')} with SHA-256 {file.get('digest')}"
        )
    return from_dict(values)


def with_bases(values: Mapping[str, Any], bases: Any) -> dict[str, Any]:
    """The values, those with a relative path with the directory that it is relative to.

    Args:
      values: of settings by name.
      bases: directories by name; or what else a damaged record holds.
    """
    values = dict(values)
    for name, base in bases.items() if isinstance(bases, Mapping) else ():
        if isinstance(values.get(name), str) and isinstance(base, str):
            values[name] = settings.RelativePath(values[name], base)
    return values


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
