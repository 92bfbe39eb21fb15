"""Every setting of a run, checked once, with its help text; the command line is made from it."""

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from pathlib import Path
from typing import Any

from protonorm_jax.errors import UsageError

ALIGNMENTS = ("auto", "thomson", "simplex", "reference", "none")
PARTITIONS = ("dirichlet", "pathological", "iid")
COLLECTIONS = ("after", "before", "during")
LAST_BATCHES = ("mask", "drop")
WEIGHTINGS = ("uniform", "samples")
PRECISIONS = ("float32", "bfloat16")


def _setting(section: str, default: Any, text: str, **rule: Any) -> Any:
    """A field with its help text and its rule: `choices`, or `above`/`least`/`most` bounds."""
    metadata = {"section": section, "help": text, **rule}
    return dataclasses.field(default=default, metadata=metadata)


_data = functools.partial(_setting, "data")
_method = functools.partial(_setting, "method")
_training = functools.partial(_setting, "training")
_execution = functools.partial(_setting, "execution")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One federated run. Equal configs with equal versions on equal devices give equal bits.

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
    method: str = _method("protonorm", "protonorm, fedproto or local")
    proximity: float | None = _method(
        None, "lambda: weight of MSE(features, s * prototype), a mean over elements", least=0
    )
    scale: float | None = _method(None, "s: length of the aligned prototypes", above=0)
    align: str | None = _method(
        None, "how the server spreads prototypes over the sphere", choices=ALIGNMENTS
    )
    weighting: str | None = _method(
        None, "weights of clients in the average of prototypes", choices=WEIGHTINGS
    )
    collect: str = _method(
        "after",
        "prototypes are taken from the model after training, before it (as the reference code "
        "does) or during it",
        choices=COLLECTIONS,
    )
    family: str = _training(
        "tiny", "tiny, ht0, or model names with commas; client i gets model i modulo their count"
    )
    feature_dim: int = _training(512, "length of features and prototypes", least=1)
    rounds: int = _training(100, "communication rounds", least=1)
    local_epochs: int = _training(1, "epochs a client trains each round", least=1)
    batch_size: int = _training(32, "samples a step", least=1)
    learning_rate: float = _training(0.01, "of the clients' SGD", above=0)
    shuffle: bool = _training(True, "reorder a client's samples every epoch")
    last_batch: str = _training(
        "mask", "train on the incomplete last batch, masked, or drop it", choices=LAST_BATCHES
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
        for field in dataclasses.fields(self):
            value = _checked(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> "Config":
        """The same settings but for some, checked again."""
        return from_dict(self.to_dict() | changes)

    def digest(self) -> str:
        """Sixteen hex digits that name this config: equal settings, equal digest."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def from_dict(values: dict[str, Any]) -> Config:
    """A config from a mapping such as `to_dict` returns.

    Raises:
      UsageError: an unknown field, or a value outside its range.
    """
    known = [field.name for field in dataclasses.fields(Config)]
    for name in values:
        if name not in known:
            raise UsageError(f"Config has no field {name!r}; its fields are {', '.join(known)}")
    return Config(**values)


def load(path: str | Path) -> Config:
    """Reads a config from a JSON file.

    Raises:
      UsageError: the file is missing, not JSON, not one object, or holds a bad setting.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"config must be a readable JSON file, got {str(path)!r}: {error}"
        ) from error
    except json.JSONDecodeError as error:
        raise UsageError(f"config must be valid JSON, got {str(path)!r}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"config must hold one JSON object, got {type(values).__name__}")
    return from_dict(values)


def field_type(field: dataclasses.Field) -> tuple[type, bool]:
    """The plain type of a field and whether `None` is allowed too."""
    hint = typing.get_type_hints(Config)[field.name]
    if isinstance(hint, types.UnionType):
        (plain,) = [part for part in typing.get_args(hint) if part is not types.NoneType]
        return plain, True
    return hint, False


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """The value in its own type, or a `UsageError`."""
    plain, optional = field_type(field)
    if value is None and optional:
        return None

    def refuse(rule: str) -> typing.NoReturn:
        raise UsageError(f"Config.{field.name} must be {rule}, got {value!r}")

    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        refuse({int: "an integer", float: "a number", str: "text", bool: "true or false"}[plain])
    if isinstance(value, float) and not math.isfinite(value):
        refuse("finite")
    rule = field.metadata
    if "choices" in rule and value not in rule["choices"]:
        refuse(f"one of {', '.join(rule['choices'])}")
    if "above" in rule and not value > rule["above"]:
        refuse(f"> {rule['above']}")
    if "least" in rule and value < rule["least"]:
        refuse(f">= {rule['least']}")
    if "most" in rule and value > rule["most"]:
        refuse(f"<= {rule['most']}")
    return value
