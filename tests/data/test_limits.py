"""Files that declare more than they hold: one line, soon, and in little memory."""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from protonorm_jax import data
from protonorm_jax.data import arrays, limits, memory
from protonorm_jax.errors import UsageError

READER = """
import json, resource, sys, time
from protonorm_jax import data
from protonorm_jax.errors import UsageError

def kib(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))

room = 2**30
limit = kib("VmSize") * 1024 + room
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for spec in sys.argv[1:]:
    before, began = kib("VmRSS"), time.process_time()
    try:
        data.load(spec)
        message = "read"
    except UsageError as error:
        message = str(error)
    seconds = time.process_time() - began
    print(json.dumps([message, seconds, kib("VmHWM") - before]), flush=True)
"""


def npy(shape, kind="|u1", *, content=b"", by_column=False):
    """An array as numpy writes it, whatever its header says."""
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": by_column, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)
    return file.getvalue() + content


def archive(path, members, *, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


LABELS = npy((6,), "<i8", content=np.arange(6).tobytes())
BILLION = 10**9


def zeros(path, size, begin):
    """An archive whose images unpack to `size` zeros after their header."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        with file.open("images.npy", "w", force_zip64=True) as member:
            member.write(begin)
            for _ in range(size // 2**20):
                member.write(bytes(2**20))
        file.writestr("labels.npy", LABELS)
    return path


def gzipped(path, begin, size):
    with gzip.open(path, "wb", 1) as file:
        file.write(begin)
        for _ in range(size // 2**20):
            file.write(bytes(2**20))


def hostile(folder):
    """By name: a spec, and what must be in the line about it."""
    pfl = folder / "pfl" / "train"
    pfl.mkdir(parents=True)
    (folder / "pfl" / "test").mkdir()
    huge = pickle.dumps(np.zeros(4))
    huge = huge.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")
    archive(pfl / "0.npz", {"data": npy((), "|O", content=huge)})
    idx = folder / "idx"
    idx.mkdir()
    images = b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 64, 64)
    (idx / "train-images-idx3-ubyte").write_bytes(images + bytes(100))
    packed = folder / "packed"
    packed.mkdir()
    header = b"\0\0\x08\x03" + struct.pack(">3I", 3 * 2**18, 64, 64)
    gzipped(packed / "train-images-idx3-ubyte.gz", header, 2**27)
    tar = folder / "bomb.tar.gz"
    member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    member.size = 2**32
    gzipped(tar, member.tobuf(), 2**27)
    many = folder / "many.npz"
    with zipfile.ZipFile(many, "w") as file:
        for number in range(20_000):
            file.writestr(f"{number:060}", b"")
    rows = (BILLION, 28, 28)
    return {
        "rows": (archive(folder / "rows.npz", {"images": npy(rows), "labels": LABELS}), "as long"),
        "scalar": (
            archive(folder / "s.npz", {"images": npy(rows), "labels": LABELS, "name": npy(rows)}),
            "as long as its header",
        ),
        "bomb": (zeros(folder / "bomb.npz", 2**28, npy((2**28 // 64, 8, 8))), "200 times its size"),
        "many": (many, "an archive of too many files"),
        "pickle": (f"pfllib:{folder}/pfl", "whose shape says 17179869176"),
        "idx": (f"idx:{idx}", "bytes long as its header [2147483648, 64, 64] says, got 116"),
        "gzip": (f"idx:{packed}", "must unpack to at most 200 times its size"),
        "tar": (f"cifar:{tar}", "bytes from"),
    }


def test_hostile_files_end_soon_and_in_little_memory(tmp_path):
    cases = hostile(tmp_path)
    specs = [str(spec) for spec, _ in cases.values()]
    result = subprocess.run(
        [sys.executable, "-c", READER, *specs], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    for name, (message, seconds, kib) in zip(cases, lines, strict=True):
        assert cases[name][1] in message and "\n" not in message, (name, message)
        assert seconds < 10 and kib < 300 * 1024, (name, seconds, kib)


def refusal(path):
    with pytest.raises(UsageError) as caught:
        data.load(str(path))
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((6, 2, 2), content=bytes(23)), "says, 24 bytes, got 23"),
        (npy((6, 2, 2), content=bytes(25)), "says, 24 bytes, got 25"),
        (npy((-6, -2, 2), content=bytes(24)), "none negative"),
        (npy((1,) * 9, content=b"a"), "at most 8 dimensions"),
        (npy((2**62, 2**62, 2**62)), "says, 9807971461541688"),
        (npy((0, 2**62)), "images and labels must be equally many"),
        (npy((6,), "|O", content=b"cos\nsystem\n."), "must hold no pickled objects"),
        (npy((6,), [("a", "|O")], content=b"."), "must hold plain numbers"),
        (npy((6,), "<M8[s]", content=bytes(48)), "must hold plain numbers, got dtype datetime64"),
        (b"\x93NUMPY\x09\x00" + bytes(80), "must be an array of numpy, got first bytes 93"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "must be readable"),
        (b"\x93NUMPY\x01\x00\x0a\x00" + b"__import__", "must be readable"),
        (b"\x93NUMPY\x01\x00\x0a\x00" + b"{'a': (1,\n", "must be readable"),
        (b"\x93NUMPY\x01\x00\xf0\x00" + b"-" * 240, "must be readable"),
        (b"", "must be an array of numpy, got an empty file"),
    ],
)
def test_arrays_within_archives(tmp_path, content, message):
    got = refusal(archive(tmp_path / "a.npz", {"images": content, "labels": LABELS}))
    assert message in got and ": images" in got


def test_archives_as_numpy_does_not_write_them(tmp_path):
    images = npy((6, 2, 2), content=bytes(range(24)))
    members = {"images": images, "labels": LABELS}
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        assert "must be stored or deflated" in refusal(
            archive(tmp_path / "a.npz", members, method=method)
        )
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = archive(tmp_path / "a.npz", members, method=method)
        assert data.load(str(path)).images.shape == (6, 2, 2, 1)
    # A list of contents that says more, or less, than there is.
    whole = path.read_bytes()
    size = struct.pack("<I", len(images))
    place = whole.rindex(size, 0, whole.index(b"PK\x05\x06"))
    place = whole.index(b"PK\x01\x02") + 24
    assert whole[place : place + 4] == size
    for other in (2**31, len(images) + 1, len(images) - 1, 0):
        changed = whole[:place] + struct.pack("<I", other) + whole[place + 4 :]
        path.write_bytes(changed)
        refusal(path)


def test_no_change_of_a_byte_raises_anything_else(tmp_path):
    images = npy((6, 2, 2), content=bytes(range(24)))
    path = archive(tmp_path / "a.npz", {"images": images, "labels": LABELS})
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(500):
        changed = bytearray(whole)
        for place in generator.integers(len(whole), size=2):
            changed[place] = generator.integers(256)
        path.write_bytes(changed)
        try:
            data.load(str(path))
        except UsageError as error:
            assert "\n" not in str(error)


def test_pipes_are_not_waited_for(tmp_path):
    path = tmp_path / "pipe.npz"
    os.mkfifo(path)
    for spec in (path, f"cifar:{path}"):
        with pytest.raises(UsageError, match="must be a file, got a pipe or device"):
            data.load(str(spec))


def test_what_does_not_fit_into_memory_is_refused_before(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 100)
    monkeypatch.setattr(limits, "MIN_BOMB", 200)
    images = npy((50, 2, 2), content=bytes(range(200)))
    labels = npy((50,), "|u1", content=bytes(range(50)))
    path = archive(tmp_path / "a.npz", {"images": images, "labels": labels})
    assert "must fit into memory, got" in refusal(path)


def test_large_honest_files_are_read(tmp_path):
    """Sparse images pack well, but not as well as nothing at all."""
    generator = np.random.default_rng(0)
    images = np.zeros((70_000, 1024), np.uint8)
    images[:, :16] = generator.integers(0, 256, (70_000, 16))
    assert images.nbytes > limits.MIN_BOMB
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=images.reshape(-1, 32, 32), labels=np.arange(70_000) % 3)
    with arrays.Archive(path) as file:
        assert file.check(["images"]) < limits.MAX_RATIO * path.stat().st_size
    assert np.array_equal(data.load(str(path)).images.reshape(70_000, 1024), images)


@pytest.mark.parametrize("kind", [">u2", "<u2", ">f8", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_by_row_and_as_this_machine_has_them(kind, order):
    array = np.asarray(np.arange(24).reshape(2, 3, 4), kind, order=order)
    file = io.BytesIO()
    np.save(file, array)
    size = file.tell()
    file.seek(0)
    got = arrays.read_npy(file, size, "here")
    assert np.array_equal(got, array) and got.flags.c_contiguous
    assert got.dtype.isnative and got.dtype == array.dtype.newbyteorder("=")
