"""Source `tfds`: prepared sets are read without TensorFlow; without network it fails at once."""

import io
import os
import re
import shutil
import struct
import sys
import time

import numpy as np
import PIL.Image
import pytest

from protonorm_jax import data
from protonorm_jax.errors import UsageError

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")  # only on Linux does TFDS bring it along

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), np.uint8)


def png(array):
    file = io.BytesIO()
    PIL.Image.fromarray(array.squeeze()).save(file, "png")
    return io.BytesIO(file.getvalue())


def splits():
    """Examples of the splits: nine for training, three for testing, the test split first."""
    both = [{"image": png(image), "label": i % 3} for i, image in enumerate(IMAGES)]
    return {"test": both[9:], "train": both[:9]}


def features(image_shape=(6, 5, 3)):
    return {
        "image": tfds.features.Image(shape=image_shape),
        "label": tfds.features.ClassLabel(num_classes=4),
    }


def prepare(folder, name, examples, kinds, supervised_keys=("image", "label"), config=None):
    """Writes a set with TFDS itself, in the format that needs no TensorFlow to write."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(kinds),
                supervised_keys=supervised_keys,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in examples}

        def _generate_examples(self, split):
            yield from enumerate(examples[split])

    Tiny.name = name
    builder = Tiny(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with several prepared sets."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    prepare(folder, "tiny_pictures", splits(), features())
    prepare(folder, "tiny_configs", splits(), features(), config="small")
    no_label = {"unlabelled": [{"image": png(IMAGES[0]), "label": -1}]}
    prepare(folder, "part_labelled", splits() | no_label, features(), None)
    no_label = {"train": [{"image": png(IMAGES[0]), "label": -1}]}
    prepare(folder, "never_labelled", no_label, features())
    grey = [{"image": png(image[..., :1]), "label": i % 2} for i, image in enumerate(IMAGES)]
    prepare(folder, "grey_pictures", {"train": grey}, features((6, 5, 1)))
    odd = [{"image": png(IMAGES[0]), "label": 0}, {"image": png(IMAGES[0][1:]), "label": 1}]
    prepare(folder, "odd_sizes", {"train": odd}, features((None, None, 3)))
    text = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
    prepare(folder, "texts", {"train": [{"text": "a", "label": 1}]}, text, ("text", "label"))
    # The same set as a TFRecord file, the usual format; TFDS writes it only with TensorFlow.
    shutil.copytree(folder / "tiny_pictures", folder / "tiny_records")
    records = folder / "tiny_records" / "1.2.0"
    info = (records / "dataset_info.json").read_text()
    info = info.replace("tiny_pictures", "tiny_records").replace("array_record", "tfrecord")
    (records / "dataset_info.json").write_text(info)
    builder = tfds.builder("tiny_pictures", data_dir=folder)
    for split in ("train", "test"):
        source = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        framed = [struct.pack("<QI", len(r), 0) + r + bytes(4) for r in source]
        (records / f"tiny_records-{split}.tfrecord-00000-of-00001").write_bytes(b"".join(framed))
        (records / f"tiny_pictures-{split}.array_record-00000-of-00001").unlink()
    return folder


def refusal(spec, folder, cache_dir):
    start = time.perf_counter()
    with pytest.raises(UsageError) as caught:
        data.load(spec, data_dir=folder, cache_dir=cache_dir)
    assert time.perf_counter() - start < 5
    assert not cache_dir.exists() or not list(cache_dir.iterdir())
    message = str(caught.value)
    assert "\n" not in message
    return message


def pairs(images, labels):
    return sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


@pytest.mark.parametrize(
    "name",
    ["tiny_pictures", "tiny_pictures:1.2.0", "tiny_configs/small", "tiny_records", "part_labelled"],
)
def test_prepared_set(prepared, tmp_path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # an import raises
    dataset = data.load(f"tfds:{name}", data_dir=prepared, cache_dir=tmp_path / "cache")
    assert dataset.images.shape == (12, 6, 5, 3) and dataset.images.dtype == np.uint8
    assert dataset.labels.dtype == np.int32 and dataset.num_classes == 4
    assert dataset.name == name.replace("/", "-").replace(":", "-")
    assert dataset.parts.tolist() == [0] * 9 + [2] * 3
    labels = np.arange(12) % 3
    assert pairs(dataset.images[:9], dataset.labels[:9]) == pairs(IMAGES[:9], labels[:9])
    assert pairs(dataset.images[9:], dataset.labels[9:]) == pairs(IMAGES[9:], labels[9:])


def test_second_load_needs_neither_tfds_nor_its_files(prepared, tmp_path, monkeypatch):
    first = data.load("tfds:tiny_pictures", data_dir=prepared, cache_dir=tmp_path)
    (kept,) = tmp_path.iterdir()
    assert re.fullmatch(r"tfds-tiny_pictures-[0-9a-f]{40}\.npz", kept.name)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # an import raises
    again = data.load("tfds:tiny_pictures", data_dir=tmp_path / "none", cache_dir=tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_prepared_files_that_change_are_seen(prepared, tmp_path):
    folder, how = tmp_path / "sets", {"cache_dir": tmp_path / "cache"}
    shutil.copytree(prepared / "tiny_records", folder / "tiny_records")
    first = data.load("tfds:tiny_records", data_dir=folder, **how)
    (path,) = folder.glob("tiny_records/*/*-train.tfrecord*")
    content, before = path.read_bytes(), path.stat()
    # The first record put last.
    length = struct.unpack("<Q", content[:8])[0]
    swapped = content[12 + length + 4 :] + content[: 12 + length + 4]
    path.write_bytes(swapped)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = data.load("tfds:tiny_records", data_dir=folder, **how)
    assert np.array_equal(second.images[:9], np.roll(first.images[:9], -1, axis=0))
    assert np.array_equal(second.labels[:9], np.roll(first.labels[:9], -1))
    path.write_bytes(content)
    moved = folder.rename(tmp_path / "moved")
    third = data.load("tfds:tiny_records", data_dir=moved, **how)
    assert np.array_equal(third.images, first.images)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_images_of_several_sizes(prepared, tmp_path):
    dataset = data.load("tfds:odd_sizes", data_dir=prepared, cache_dir=tmp_path, image_size=5)
    assert dataset.images.shape == (2, 5, 5, 3) and dataset.parts is None
    assert any(np.array_equal(image, IMAGES[0][1:]) for image in dataset.images)
    large = data.load("tfds:tiny_pictures", data_dir=prepared, cache_dir=tmp_path, image_size=7)
    small = data.load("tfds:tiny_pictures", data_dir=prepared, cache_dir=tmp_path, image_size=3)
    assert (large.images.shape[1], small.images.shape[1]) == (7, 3)


def test_places_come_from_the_environment_and_grey_images_have_one_channel(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.load("tfds:grey_pictures").images.shape == (12, 6, 5, 1)
    assert len(list((tmp_path / "protonorm_jax").glob("tfds-grey_pictures-*.npz"))) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odd_sizes", "images must all have one size, got"),
        ("texts", "must be an image classification set (an image and a class label), got features"),
        ("never_labelled", "must have labelled samples, got none"),
        ("no_such_set", "tfds:NAME must be a set that TFDS"),
        ("tiny_pictures:9.9.9", "tfds:NAME must be a set that TFDS"),
        ("cifar10:1.0.0", "cannot be loaded at version 1.0.0, only: "),
        ("emnist/nope", "BuilderConfig nope not found"),
        ("two words", "tfds:NAME must be SET, SET/CONFIG or SET:1.2.3, got 'two words'"),
        ("../passwd", "tfds:NAME must be SET, SET/CONFIG or SET:1.2.3, got '../passwd'"),
        ("huggingface:mnist", "tfds:NAME must be SET, SET/CONFIG or SET:1.2.3, got 'hugg"),
    ],
)
def test_refusals(prepared, tmp_path, name, message):
    assert message in refusal(f"tfds:{name}", prepared, tmp_path / "cache")


def test_without_tensorflow_nothing_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refusal("tfds:cifar10", tmp_path, tmp_path / "cache")
    assert f"tfds:cifar10 must be prepared in {tmp_path}/cifar10/" in message
    assert "no tensorflow to prepare it" in message and "protonorm_jax[prepare]" in message


def test_without_network_it_does_not_retry(tmp_path, monkeypatch):
    import requests

    asked = []

    def unreachable(url, timeout):
        asked.append((url, timeout))
        raise requests.ConnectionError("no route")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(requests, "head", unreachable)
    message = refusal("tfds:cifar10", tmp_path, tmp_path / "cache")
    assert "no network to https://www.cs.toronto.edu" in message and "ConnectionError" in message
    assert len(asked) == 1


def test_failure_while_preparing(tmp_path, monkeypatch):
    import requests

    def fails(self, download_config):
        assert not download_config.try_download_gcs
        raise RuntimeError("the archive\nhas changed")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(requests, "head", lambda url, timeout: io.BytesIO())
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fails)
    message = refusal("tfds:cifar10", tmp_path, tmp_path / "cache")
    assert "RuntimeError: the archive has changed on the way" in message


def test_truncated_files(prepared, tmp_path):
    folder, cache_dir = tmp_path / "sets", tmp_path / "cache"
    shutil.copytree(prepared / "tiny_records", folder / "tiny_records")
    (path,) = folder.glob("tiny_records/*/*-train.tfrecord*")
    content = path.read_bytes()
    for keep in (0, 5, len(content) // 2):
        path.write_bytes(content[:keep])
        message = "ends within" if keep else "must hold 9 samples, got 0"
        assert message in refusal("tfds:tiny_records", folder, cache_dir)
    path.unlink()
    message = "must be readable, got FileNotFoundError"
    assert message in refusal("tfds:tiny_records", folder, cache_dir)

    shutil.copytree(prepared / "tiny_pictures", folder / "tiny_pictures")
    (path,) = folder.glob("tiny_pictures/*/*-train.array_record*")
    path.write_bytes(path.read_bytes()[:700])
    assert "must be readable, got" in refusal("tfds:tiny_pictures", folder, cache_dir)
