"""The files of kept models: names, what they hold, and how they are read.

In a folder are `models.json`, a safetensors file for each client, and one of what the server had
sent, where a predictor looks at that. Arrays are named by the path to them: `model/params/...` and
`model/batch_stats/...` for the client's own net, and alike for what a method keeps beside it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

from protonorm_jax import json_files
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Client, Variables

FOLDER, MANIFEST, SERVER = "models", "models.json", "server.safetensors"
FORMAT = 1
_TEXTS = ("method", "predictor", "data_digest")
_NUMBERS = ("round", "num_classes", "feature_dim")


def client_file(client: int) -> str:
    """The name of the file of a client."""
    return f"client_{client:04d}.safetensors"


def digest_of(content: bytes) -> str:
    """SHA-256 of what a file holds, as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def arrays_of(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a pytree by the path to them."""
    leaves = jax.tree.leaves_with_path(tree)
    return {_name(path): np.asarray(leaf, order="C") for path, leaf in leaves}


def server_tree(sent: Any) -> dict[str, Any]:
    """What the server had sent, as the names in its file have it."""
    return {"sent": sent}


def by_net(client: Client) -> dict[str, Variables]:
    """The variables of a client, net by net, as their names in files have it."""
    nets: dict[str, Variables] = {name: {"params": own} for name, own in client.params.items()}
    for name, own in client.statistics.items():
        nets.setdefault(name, {})["batch_stats"] = own
    return nets


def client_of(nets: Mapping[str, Variables]) -> Client:
    """Undoes `by_net`."""
    params = {name: own["params"] for name, own in nets.items() if "params" in own}
    statistics = {name: own["batch_stats"] for name, own in nets.items() if "batch_stats" in own}
    return Client(params, statistics)


def tree_of(arrays: Mapping[str, np.ndarray], shapes: Any, place: str) -> Any:
    """Undoes `arrays_of`.

    Args:
      arrays: by name; others than those of the tree are left out.
      shapes: of the tree.
      place: what messages name.

    Raises:
      UsageError: an array is missing, or has another shape or dtype.
    """

    def take(path: tuple, shape: Any) -> np.ndarray:
        name = _name(path)
        if name not in arrays:
            raise UsageError(f"{place} must hold {name}, got {len(arrays)} other arrays")
        array = arrays[name]
        if array.shape != shape.shape or array.dtype != shape.dtype:
            raise UsageError(
                f"{place} must hold {name} as {shape.dtype}{list(shape.shape)}, got "
                f"{array.dtype}{list(array.shape)}"
            )
        return array

    return jax.tree_util.tree_map_with_path(take, shapes)


class Kept(NamedTuple):
    """A folder of kept models.

    Attributes:
      folder: where they are.
      described: what `models.json` holds.
    """

    folder: Path
    described: dict[str, Any]

    @property
    def round_index(self) -> int:
        """The round after which the models were kept."""
        return self.described["round"]

    @property
    def clients(self) -> list[dict[str, Any]]:
        """What is said of each client, in their order."""
        return self.described["clients"]

    def arrays(self, file: str) -> dict[str, np.ndarray]:
        """What a file holds, by name.

        Raises:
          UsageError: it cannot be read, or is not as it was written.
        """
        path = self.folder / file
        try:
            content = path.read_bytes()
            if digest_of(content) != self._digests()[file]:
                raise ValueError("its SHA-256 is not that in models.json")
            return safetensors.numpy.load(content)
        except Exception as error:  # What a damaged file raises is anything.
            raise UsageError(f"{path} must be whole, got an error: {_first_line(error)}") from error

    def _digests(self) -> dict[str, str]:
        listed = [*self.clients, *([self.described["server"]] if self.described["server"] else [])]
        return {one["file"]: one["sha256"] for one in listed}


def find(directory: str | Path, field: str = "DIR") -> Kept:
    """The kept models of a run.

    Args:
      directory: of the run, or the folder in it.
      field: what messages call the directory.

    Raises:
      UsageError: there are none, or what describes them cannot be read.
    """
    path = Path(directory).expanduser()
    folder = path if (path / MANIFEST).exists() else path / FOLDER
    if not (folder / MANIFEST).exists():
        raise UsageError(
            f"{field} must be the directory of a finished run with kept models (protonorm run "
            f"--keep-models), got {str(directory)!r}"
        )
    try:
        return Kept(folder, _checked(json_files.read(folder / MANIFEST)))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{field} must have a readable {MANIFEST}, got {str(folder)!r}: {_first_line(error)}"
        ) from error


def _checked(described: Any) -> dict[str, Any]:
    """What describes kept models, if it has the form.

    Raises:
      ValueError: it has not.
    """

    def require(value: Any, kind: type, name: str) -> None:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name} must be of type {kind.__name__}, got {str(value)[:60]!r}")

    require(described, dict, "it")
    if described.get("format") != FORMAT:
        raise ValueError(f"format must be {FORMAT}, got {described.get('format')!r}")
    for names, kind in ((_TEXTS, str), (_NUMBERS, int)):
        for name in names:
            require(described.get(name), kind, name)
    require(described.get("config"), dict, "config")
    require(described.get("image_shape"), list, "image_shape")
    require(described.get("predictors"), list, "predictors")
    require(described.get("clients"), list, "clients")
    for number, one in enumerate(described["clients"]):
        require(one, dict, "each of clients")
        for name in ("architecture", "file", "sha256"):
            require(one.get(name), str, f"{name} of a client")
        require(one.get("train_by_class"), dict, "train_by_class of a client")
        if one.get("client") != number:
            raise ValueError(f"client must be {number} in its place, got {one.get('client')!r}")
    server = described.get("server")
    if server is not None:
        require(server, dict, "server")
        for name in ("file", "sha256"):
            require(server.get(name), str, f"{name} of server")
    return described


def _name(path: tuple) -> str:
    """A path into a pytree: keys, fields and positions."""
    return "/".join(
        str(getattr(one, "key", getattr(one, "name", getattr(one, "idx", one)))) for one in path
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
