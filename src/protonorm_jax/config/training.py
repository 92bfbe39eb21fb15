"""How settings say what training is: rates by round, what is done to images, what goes together."""

import math
from typing import Any

from protonorm_jax.errors import UsageError

OPTIMIZERS = ("sgd", "adam", "adamw")
AUGMENTATIONS = ("none", "crop", "flip", "crop,flip")


def check_training(config: Any) -> None:
    """Refuses settings of the training that contradict each other."""
    if config.local_steps and config.local_epochs != 1:
        raise UsageError(
            f"Config.local_steps must be 0 or left out with local_epochs {config.local_epochs}, "
            f"got {config.local_steps}"
        )
    if config.momentum and config.optimizer != "sgd":
        raise UsageError(
            f"Config.momentum must be 0 or left out with optimizer {config.optimizer}, got "
            f"{config.momentum}"
        )
    if config.nesterov and not config.momentum:
        raise UsageError("Config.nesterov must be False with momentum 0, got True")
    if config.keep_models == "selected" and not config.validation_fraction:
        raise UsageError(
            "Config.keep_models must be last or none with validation_fraction 0, where no round is "
            "selected, got 'selected'"
        )


def augmentation(text: str) -> str:
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
