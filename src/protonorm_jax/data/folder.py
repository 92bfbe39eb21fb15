"""Source `folder:PATH`: one sub-folder a class, image files in it.

Any format that Pillow reads. The classes are the sub-folders in alphabetical order; files and
folders whose name begins with a dot, and files next to the sub-folders, are left out. Of a set
with only grey images the images have one channel, else three.
"""

from pathlib import Path

import numpy as np
import PIL.Image

from protonorm_jax.data import checks
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset

GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def load(argument: str, **_: object) -> Dataset:
    """Reads a folder of images; transparency and palettes are resolved to plain colours.

    Args:
      argument: the folder of the classes' folders.

    Returns:
      The set, classes in alphabetical order, files in alphabetical order within a class.

    Raises:
      UsageError: there are fewer than two classes, a class has no images, a file is no image of 8
        bits a channel, or the images are not all of one size (nothing is resized).
    """
    root = Path(argument).expanduser()
    classes = [entry for entry in _entries(root) if entry.is_dir()]
    if len(classes) < 2:
        raise UsageError(
            f"{root} must hold at least 2 folders, one for each class, got {len(classes)}"
        )
    images: list[np.ndarray] = []
    labels: list[int] = []
    first = root
    for label, class_folder in enumerate(classes):
        files = _entries(class_folder)
        if not files:
            raise UsageError(f"{class_folder} must hold at least one image, got none")
        for file in files:
            image = _read_image(file)
            if not images:
                first = file
            elif image.shape[:2] != images[0].shape[:2]:
                raise UsageError(
                    f"{file}: images must all have one size, "
                    f"got {_size(image)} and {_size(images[0])} in {first}"
                )
            images.append(image)
            labels.append(label)
    if any(image.shape[2] == 3 for image in images):
        shape = (*images[0].shape[:2], 3)
        images = [np.broadcast_to(image, shape) for image in images]
    return checks.dataset(
        np.stack(images),
        np.array(labels),
        origin=str(root),
        name=root.resolve().name,
        num_classes=len(classes),
    )


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, hidden entries left out."""
    with checks.reading(folder):
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _read_image(path: Path) -> np.ndarray:
    """One image as `[H, W, 1]` or `[H, W, 3]` uint8."""
    with checks.reading(path), PIL.Image.open(path) as image:
        if image.mode in GREY_MODES:
            return np.asarray(image.convert("L"))[..., None]
        if image.mode in COLOUR_MODES:
            # By way of RGBA, which Pillow wants for palettes with transparency.
            rgb = image.convert("RGBA" if image.mode in ("P", "PA") else "RGB").convert("RGB")
            return np.asarray(rgb)
        raise UsageError(f"{path} must have 8 bits a channel, got Pillow mode {image.mode}")


def _size(image: np.ndarray) -> str:
    """`HxW`."""
    return f"{image.shape[0]}x{image.shape[1]}"
