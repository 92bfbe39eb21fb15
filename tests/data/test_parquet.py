"""Source `parquet`: the layouts of Hugging Face, columns to choose from, and hostile files."""

import io
import json
import random
import time

import numpy as np
import PIL.Image
import pytest

from protonorm_jax import data
from protonorm_jax.data import folder
from protonorm_jax.errors import UsageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 3, 3), np.uint8)
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["ape", "bee", "cat", "dog"]
CLASS_LABEL = {"names": NAMES, "_type": "ClassLabel"}


def png(array):
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, "png")
    return file.getvalue()


def structs(images):
    return pa.array([{"bytes": png(image), "path": None} for image in images], STRUCT)


def integers(labels, dtype=None):
    return pa.array(labels, dtype or pa.int64())


def write(path, columns, features=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        said = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": said})
    pq.write_table(table, path, **options)
    return path


def shard(path, rows, **options):
    """A shard as `datasets` writes it, row i of class i modulo 3."""
    rows = list(rows)
    columns = {"image": structs(IMAGES[rows]), "label": integers([row % 3 for row in rows])}
    return write(path, columns, {"image": {"_type": "Image"}, "label": CLASS_LABEL}, **options)


def refusal(place, **how):
    start = time.perf_counter()
    with pytest.raises(UsageError) as caught:
        data.load(f"parquet:{place}", **how)
    assert time.perf_counter() - start < 5
    message = str(caught.value)
    assert message.isprintable(), message
    return message


def test_shards_of_parts(tmp_path):
    root = tmp_path / "zoo"
    shard(root / "data" / "test-00000-of-00001.parquet", range(9, 12))
    shard(root / "data" / "train-00001-of-00002.parquet", range(5, 8))
    shard(root / "data" / "train-00000-of-00002.parquet", range(5), row_group_size=2)
    shard(root / "data" / "validation-00000-of-00001-0a1b.parquet", range(8, 9))
    (root / "README.md").write_text("no shard")
    dataset = data.load(f"parquet:{root}")
    assert np.array_equal(dataset.images, IMAGES)
    assert dataset.labels.tolist() == [row % 3 for row in range(12)]
    assert dataset.parts.tolist() == [0] * 8 + [1] + [2] * 3
    assert (dataset.num_classes, dataset.name) == (4, "zoo")
    one = data.load(f"parquet:{root}/data/train-00000-of-00002.parquet")
    assert np.array_equal(one.images, IMAGES[:5]) and one.parts is None
    assert one.name == "train-00000-of-00002"


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("default/train/0000.parquet", "default/test/0000.parquet"), [0, 0, 2, 2]),
        (("train.parquet", "valid.parquet"), [0, 0, 1, 1]),
        (("zoo-train.parquet", "zoo-dev.parquet"), None),
        (("0000.parquet", "0001.parquet"), None),
        (("extra-00000-of-00001.parquet", "test-00000-of-00001.parquet"), [0, 0, 2, 2]),
    ],
)
def test_names_of_parts(tmp_path, names, parts):
    for i, name in enumerate(names):
        shard(tmp_path / name, [2 * i, 2 * i + 1])
    dataset = data.load(f"parquet:{tmp_path}")
    assert sorted(image.tobytes() for image in dataset.images) == sorted(
        image.tobytes() for image in IMAGES[:4]
    )
    assert (None if dataset.parts is None else dataset.parts.tolist()) == parts


def test_folders_that_are_refused(tmp_path):
    assert "must exist" in refusal(tmp_path / "none")
    assert f"{tmp_path} must hold .parquet files, got none" in refusal(tmp_path)
    shard(tmp_path / "letters" / "train-00000-of-00003.parquet", range(3))
    shard(tmp_path / "letters" / "train-00002-of-00003.parquet", range(3))
    message = f"{tmp_path}/letters must hold all 3 shards of train, got 2, without 00001-of-00003"
    assert message in refusal(tmp_path)
    shard(tmp_path / "letters" / "train-00001-of-00003.parquet", range(3))
    shard(tmp_path / "digits" / "train.parquet", range(3))
    message = f"must hold one set, got several: digits, letters; name one as parquet:{tmp_path}/let"
    assert message in refusal(tmp_path)
    other = {"image": structs(IMAGES[:2]), "label": integers([0, 1])}
    write(tmp_path / "letters" / "test.parquet", other)
    assert "test.parquet must have columns and classes as train-00000" in refusal(
        tmp_path / "letters"
    )


def test_rows_without_a_label_are_left_out(tmp_path):
    labels = [0, -1, 1, None, 2, -1]
    path = tmp_path / "a.parquet"
    write(path, {"image": structs(IMAGES[:6]), "label": integers(labels, pa.int8())})
    dataset = data.load(f"parquet:{path}")
    assert np.array_equal(dataset.images, IMAGES[[0, 2, 4]])
    assert dataset.labels.tolist() == [0, 1, 2] and dataset.num_classes == 3
    write(path, {"image": structs(IMAGES[:2]), "label": integers([-1, None])})
    assert f"{path} must have labelled images, got none" in refusal(path)
    write(path, {"image": structs(IMAGES[:3]), "label": integers([0, 1, -2])})
    assert "labels must be in [0, 65536), got -2..1" in refusal(path)
    write(path, {"image": structs(IMAGES[:2]), "label": integers([0, 4])}, {"label": CLASS_LABEL})
    assert f"{path}: column label: labels must be in [0, 4), got 0..4" in refusal(path)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes(tmp_path, kind):
    images = pa.array([png(image) for image in IMAGES[:3]], kind)
    path = write(tmp_path / "a.parquet", {"jpg": images, "cls": integers([0, 1, 0], pa.uint16())})
    assert np.array_equal(data.load(f"parquet:{path}").images, IMAGES[:3])


def test_columns_to_choose_from(tmp_path):
    images, other = structs(IMAGES[:4]), structs(IMAGES[4:8])
    fine, coarse = integers([0, 1, 2, 3]), integers([0, 0, 1, 1])
    features = {"fine_label": CLASS_LABEL, "coarse_label": {**CLASS_LABEL, "names": ["a", "b"]}}
    columns = {"img": images, "fine_label": fine, "coarse_label": coarse, "id": fine}
    path = write(tmp_path / "a.parquet", columns, features)
    message = "must have one column of integer labels, got fine_label, coarse_label, id among "
    assert message in refusal(path) and f"parquet:{path}#fine_label" in refusal(path)
    assert data.load(f"parquet:{path}#fine_label").labels.tolist() == [0, 1, 2, 3]
    dataset = data.load(f"parquet:{path}#coarse_label")
    assert dataset.labels.tolist() == [0, 0, 1, 1] and dataset.num_classes == 2
    assert "of integer labels 'img', got fine_label, coarse_label, id" in refusal(f"{path}#img")
    for wrong in ("#", "#a,", "#a,b,c"):
        assert "must be parquet:PATH, parquet:PATH#LABEL or parquet:PATH#IMAGE," in refusal(
            f"{path}{wrong}"
        )
    path = write(tmp_path / "b.parquet", {"left": images, "right": other, "y": fine, "id": coarse})
    message = "one column of image bytes, got left, right among left, right, y, id; choose as parqu"
    assert message in refusal(path)
    assert "of image bytes 'id', got left, right" in refusal(f"{path}#id,y")
    dataset = data.load(f"parquet:{path}#right,y")
    assert np.array_equal(dataset.images, IMAGES[4:8])
    columns = {"mask": other, "image": images, "label": fine, "label_id": coarse}
    path = write(tmp_path / "c.parquet", columns)
    dataset = data.load(f"parquet:{path}")
    assert np.array_equal(dataset.images, IMAGES[:4]) and dataset.labels.tolist() == [0, 1, 2, 3]
    columns = {"image": images, "label_id": coarse, "kind": fine}
    marked = write(tmp_path / "e.parquet", columns, {"kind": CLASS_LABEL})
    assert data.load(f"parquet:{marked}").labels.tolist() == [0, 1, 2, 3]
    path.rename(tmp_path / "d#1.parquet")
    assert len(data.load(f"parquet:{tmp_path}/d#1.parquet").labels) == 4


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": integers([0, 1])}, "must have one column of image bytes, got none among label"),
        ({"image": structs(IMAGES[:2])}, "one column of integer labels, got none among image"),
        (
            {"image": structs(IMAGES[:2]), "label": pa.array(["a", "b"])},
            "one column of integer labels, got none among image, label",
        ),
        (
            {"image": pa.array([{"bytes": png(IMAGES[0])}, {}]), "label": integers([0, 1])},
            "row 1 must hold the bytes of an image, got none",
        ),
        (
            {
                "image": pa.array([{"bytes": None, "path": "a/\n.png"}] * 2, STRUCT),
                "label": integers([0, 1]),
            },
            "row 0 must hold the bytes of an image, got only the path a/\\n.png",
        ),
        (
            {"image": pa.array([png(IMAGES[0]), b"text"]), "label": integers([0, 1])},
            "row 1 must be readable, got UnidentifiedImageError",
        ),
        (
            {"image": pa.array([png(IMAGES[0]), png(IMAGES[0][1:])]), "label": integers([0, 1])},
            "row 1: images must all have one size, got 3x3 and 4x3",
        ),
        (
            {"image": structs(IMAGES[:2]), "label": integers([0, 2**63 + 1], pa.uint64())},
            "must be readable, got ArrowInvalid",
        ),
    ],
)
def test_refusals(tmp_path, columns, message):
    path = write(tmp_path / "a.parquet", columns)
    got = refusal(path)
    assert str(path) in got and message in got


def test_images_of_several_sizes(tmp_path):
    images = pa.array([png(IMAGES[0]), png(IMAGES[1][:3]), png(IMAGES[2][:, :1])])
    path = write(tmp_path / "a.parquet", {"image": images, "label": integers([0, 1, 2])})
    dataset = data.load(f"parquet:{path}", image_size=3)
    assert dataset.images.shape == (3, 3, 3, 3)
    assert np.array_equal(dataset.images[1], IMAGES[1][:3])


@pytest.mark.parametrize(
    "said",
    [
        *("", "{", "[]", "null", '{"info": 1}', '{"info": {"features": {"label": 1}}}', "[" * 9999),
        '{"info": {"features": {"label": {"names": 3, "_type": "ClassLabel"}}}}',
    ],
    ids=range(8),
)
def test_metadata_of_any_kind(tmp_path, said):
    table = pa.table({"image": structs(IMAGES[:2]), "label": integers([0, 1])})
    pq.write_table(table.replace_schema_metadata({"huggingface": said}), tmp_path / "a.parquet")
    assert data.load(f"parquet:{tmp_path}/a.parquet").num_classes == 2


def test_more_rows_than_bytes(tmp_path):
    rows = 10**6
    repeated = pa.array([png(IMAGES[0])]).dictionary_encode()
    repeated = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(rows, np.int32)), repeated.dictionary
    )
    path = tmp_path / "a.parquet"
    write(path, {"image": repeated, "label": integers(np.arange(rows) % 2)}, row_group_size=rows)
    length = path.stat().st_size
    message = f"{path} must have no more rows than bytes, got 1,000,000 rows in {length:,} bytes"
    assert message in refusal(path)


def test_what_unpacks_to_far_more(tmp_path, monkeypatch):
    monkeypatch.setattr("protonorm_jax.data.parquet.UNPACKED_BYTES", 2**20)
    images = pa.array([png(IMAGES[0]) + bytes(2**21), png(IMAGES[1])])
    path = tmp_path / "a.parquet"
    write(path, {"image": images, "label": integers([0, 1])}, compression="zstd")
    assert "must grow to at most 8 times its length, got" in refusal(path)
    write(path, {"image": images, "label": integers([0, 1])}, compression="none")
    assert np.array_equal(data.load(f"parquet:{path}").images, IMAGES[:2])


def test_broken_files(tmp_path):
    path = shard(tmp_path / "a.parquet", range(6))
    whole = path.read_bytes()
    for keep in (0, 4, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        assert f"{path} must be readable, got Arrow" in refusal(path)
    draw = random.Random(0)
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(3):
            broken[draw.randrange(len(whole) - 2500, len(whole))] = draw.randrange(256)
        path.write_bytes(broken)
        try:
            data.load(f"parquet:{path}")
        except UsageError as error:
            assert str(error).isprintable()


def test_kept_by_content(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "CACHED_BYTES", 1)
    root, told = tmp_path / "zoo", []
    shard(root / "train.parquet", range(6))
    shard(root / "test.parquet", range(6, 9))

    def load(place):
        told.clear()
        how = {"cache_dir": tmp_path / "cache", "on_progress": lambda what, *_: told.append(what)}
        return data.load(f"parquet:{place}", **how)

    first = load(root)
    assert "decoding images" in told
    again = load(root.rename(tmp_path / "moved"))
    assert "decoding images" not in told and again.name == "moved"
    assert all(
        np.array_equal(one, other) for one, other in zip(first[:3], again[:3], strict=True)
    ) and np.array_equal(first.parts, again.parts)
    (tmp_path / "moved" / "test.parquet").rename(tmp_path / "moved" / "valid.parquet")
    assert load(tmp_path / "moved").parts.tolist() == [0] * 6 + [1] * 3
    shard(tmp_path / "moved" / "train.parquet", [0, 1, 2, 3, 4, 8])
    assert np.array_equal(load(tmp_path / "moved").images[5], IMAGES[8])
