"""What the pages of parquet files unpack to, and pages that lie."""

import contextlib
import io
import random

import numpy as np
import pytest

from protonorm_jax import data
from protonorm_jax.data import pages
from protonorm_jax.errors import UsageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(0)


def table(rows=300):
    values = [RNG.bytes(10 * (i % 7)) for i in range(rows)]
    struct = pa.array(
        [{"bytes": value, "path": None if i % 3 else f"{i}"} for i, value in enumerate(values)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    return pa.table({"image": struct, "label": pa.array(range(rows)), "ï.b": pa.array(values)})


def written(content, **options):
    file = io.BytesIO()
    pq.write_table(content, file, **options)
    return file


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_group_size": 70},
        {"compression": "zstd", "use_dictionary": False, "data_page_size": 256},
        {"compression": "none", "data_page_version": "2.0", "row_group_size": 100},
        {"write_statistics": True, "dictionary_pagesize_limit": 100, "data_page_size": 500},
        {"write_page_index": True, "write_page_checksum": True, "version": "1.0"},
    ],
    ids=range(6),
)
def test_pages_unpack_to_what_the_footer_says(options):
    file = written(table(), **options)
    metadata = pq.read_metadata(file)
    for name in ("image", "label", "ï.b"):
        found = pages.unpacked(file, name)
        assert len(found) == metadata.num_row_groups
        for number, size in enumerate(found):
            group = metadata.row_group(number)
            columns = [group.column(i) for i in range(group.num_columns)]
            own = [one for one in columns if one.path_in_schema.startswith(name)]
            said = sum(one.total_uncompressed_size for one in own)
            # The footer counts the headers of the pages too.
            assert 0 < size < said < size + 120 * (1 + size // 200) * len(own)
    assert pages.unpacked(file, "none") == [0] * metadata.num_row_groups


def test_a_long_header_is_read_whole():
    """One with statistics of values that are longer than what is read at once."""
    content = pa.table({"image": pa.array([bytes([65 + i]) * 3900 for i in range(2)])})
    file = written(content, write_page_index=False, use_dictionary=False)
    assert pages.unpacked(file, "image")[0] > 7800


def test_broken_bytes_are_a_value_error():
    whole = written(table(40), row_group_size=20).getvalue()
    draw = random.Random(0)
    for trial in range(1500):
        broken = bytearray(whole)
        low = len(whole) - 2000 if trial % 2 else 0
        for _ in range(3):
            broken[draw.randrange(low, len(whole))] = draw.randrange(256)
        with contextlib.suppress(ValueError):
            pages.unpacked(io.BytesIO(broken), "image")
    for content in (b"", b"PAR1", b"PAR1\xff\xff\xff\xffPAR1", bytes(9) + b"\x14\x14PAR1"):
        with pytest.raises(ValueError):
            pages.unpacked(io.BytesIO(content), "image")
    for deep in (b"\x1c" * 5000, b"\x19" * 5000, b"\x19\xf9" + b"\xff" * 9 + b"\x01"):
        content = deep + len(deep).to_bytes(4, "little") + b"PAR1"
        with pytest.raises(ValueError):
            pages.unpacked(io.BytesIO(bytes(8) + content), "image")
    with pytest.raises(ValueError, match="a footer of 5,000,000 bytes, more than 4,194,304"):
        pages.unpacked(io.BytesIO(bytes(5 * 10**6) + b"\x40\x4b\x4c\0PAR1"), "image")


def number(value, length=0):
    """A number as Thrift packs it, made longer with zeros that say nothing."""
    value, packed = 2 * value, bytearray()
    while value > 127 or len(packed) + 1 < length:
        packed.append(value & 127 | 128)
        value >>= 7
    return bytes([*packed, value])


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_footer_that_lies_is_not_believed(tmp_path, monkeypatch, column):
    monkeypatch.setattr("protonorm_jax.data.parquet.UNPACKED_BYTES", 2**16)
    rows = 70_000 if column == "label" else 2
    images = pa.array([bytes(2**17 if column == "image" else 1)] * rows)
    labels = pa.array(np.arange(rows) % 1)
    content = pa.table({"image": images, "label": labels})
    file = written(content, compression="zstd", use_dictionary=False, write_statistics=False)
    metadata, whole = pq.read_metadata(file), file.getvalue()
    group = metadata.row_group(0)
    for said in (group.total_byte_size, group.column(0).total_uncompressed_size):
        packed = number(said)
        place = whole.rindex(packed)
        whole = whole[:place] + number(99, len(packed)) + whole[place + len(packed) :]
    path = tmp_path / "a.parquet"
    path.write_bytes(whole)
    assert pq.read_metadata(path).row_group(0).total_byte_size == 99
    if column == "label":
        monkeypatch.setattr("protonorm_jax.data.parquet._check_rows", lambda *_: None)
    with pytest.raises(UsageError, match=f"8 times its length, got .* in column {column}"):
        data.load(f"parquet:{path}")


def test_fields_far_apart_have_their_number_written_out():
    assert pages._Reader(bytes([0x15, 0x02, 0x05, 0x28, 0x03, 0x11, 0x00])).struct() == {
        1: 1,
        20: -2,
        21: True,
    }
