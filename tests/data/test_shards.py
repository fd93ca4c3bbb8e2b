"""Any rows are read in any order, in bounded memory and with few open files, whatever the number of images."""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

from facespec.data import shards
from facespec.data.shards import ShardReader, ShardWriter, check_shards
from facespec.study.artefacts import digest_files, write_document

ROW = (3, 5)


def make_rows(n: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(n)).integers(0, 256, (n, *ROW), dtype=np.uint8)


def compute_digests(array: np.ndarray) -> np.ndarray:
    """The first half of the SHA-256 of each row: uint8 (n, 16)."""
    return np.stack([np.frombuffer(hashlib.sha256(row.tobytes()).digest()[:16], np.uint8) for row in array])


def write(directory: Path, n: int, shard_size: int) -> ShardReader:
    with ShardWriter(directory, "images", ROW, shard_size=shard_size) as writer:
        writer.append(make_rows(n))
    return ShardReader(directory, "images", (n, *ROW), shard_size=shard_size)


@settings(max_examples=20)
@given(n=st.integers(1, 20), shard_size=st.integers(1, 9), data=st.data())
def test_rows_are_those_of_the_array(n: int, shard_size: int, data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=12)), dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        reader = write(Path(folder), n, shard_size)
        check_shards(Path(folder), "images", (n, *ROW), shard_size=shard_size)
        np.testing.assert_array_equal(reader.rows(indices), make_rows(n)[indices], strict=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.int32])
def test_any_type_of_integer_may_index(tmp_path: Path, dtype: type) -> None:
    """Also one too narrow for the size of a shard."""
    reader = write(tmp_path, 300, 290)
    indices = np.array([7, 200, 3, 3, 127], dtype=np.int64).clip(0, np.iinfo(dtype).max)
    np.testing.assert_array_equal(reader.rows(indices.astype(dtype)), make_rows(300)[indices])


def test_no_indices_give_no_rows(tmp_path: Path) -> None:
    reader = write(tmp_path, 5, 2)
    for none in (np.array([]), np.array([], dtype=np.int64), []):
        assert reader.rows(none).shape == (0, *ROW)
        assert reader.rows(none).dtype == np.uint8


def test_invalid_indices_are_refused(tmp_path: Path) -> None:
    reader = write(tmp_path, 5, 2)
    for wrong in (np.array([True, False]), np.array([1.0]), np.array([[1]]), np.array(1)):
        message = f"indices must be a 1-D array of integers, got {wrong.dtype} {wrong.shape}"
        with pytest.raises(TypeError, match=re.escape(message)):
            reader.rows(wrong)
    for low, high in ((-1, 2), (0, 5)):
        with pytest.raises(IndexError, match=re.escape(f"indices {low}..{high} leave 0..4")):
            reader.rows(np.array([high, low]))
    np.testing.assert_array_equal(reader.rows(np.array([4, 0])), make_rows(5)[[4, 0]])


def test_rows_are_copies(tmp_path: Path) -> None:
    """Changing what was read changes neither the file nor what is read next."""
    reader = write(tmp_path, 5, 2)
    reader.rows(np.arange(5))[:] = 0
    np.testing.assert_array_equal(reader.rows(np.arange(5)), make_rows(5))


def test_rows_may_come_in_pieces_of_any_length_and_memory_order(tmp_path: Path) -> None:
    expected = make_rows(11)
    with ShardWriter(tmp_path, "images", ROW, shard_size=4) as writer:
        for piece in np.split(expected, [0, 1, 1, 9]):
            writer.append(np.asfortranarray(piece))
    np.testing.assert_array_equal(
        ShardReader(tmp_path, "images", (11, *ROW), shard_size=4).rows(np.arange(11)), expected
    )
    assert [len(np.load(tmp_path / f"images-0000{i}.npy")) for i in range(3)] == [4, 4, 3]


def test_headers_of_other_versions_are_read(tmp_path: Path) -> None:
    """Other programs may write the longer headers of versions 2 and 3."""
    for number, version in enumerate([(1, 0), (2, 0), (3, 0)]):
        with (tmp_path / f"images-{number:05d}.npy").open("wb") as file:
            npy.write_array(file, make_rows(6)[2 * number : 2 * number + 2], version=version)
    np.save(tmp_path / "images-digests.npy", compute_digests(make_rows(6)))
    check_shards(tmp_path, "images", (6, *ROW), shard_size=2)
    reader = ShardReader(tmp_path, "images", (6, *ROW), shard_size=2)
    np.testing.assert_array_equal(reader.rows(np.arange(6)), make_rows(6))


class MapCounter:
    """Counts memory maps: how many were made, and how many of them existed at once at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.most = 0, 0
        make_map = mmap.mmap
        existing: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

        def make_and_count(*args: Any, **kwargs: Any) -> mmap.mmap:
            existing.add(mapping := make_map(*args, **kwargs))
            self.made, self.most = self.made + 1, max(self.most, len(existing))
            return mapping

        monkeypatch.setattr(mmap, "mmap", make_and_count)


def test_the_number_of_open_shards_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "OPEN_SHARDS", 10)
    reader = write(tmp_path, 400, 1)
    maps = MapCounter(monkeypatch)
    order = np.random.Generator(np.random.PCG64(1)).permutation(400)
    for start in range(0, 400, 32):
        np.testing.assert_array_equal(reader.rows(order[start : start + 32]), make_rows(400)[order[start : start + 32]])
    assert (maps.made, maps.most) == (400, 10)


def test_shards_are_unmapped_before_they_take_too_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for six rows. The shards hold four, four and two."""
    monkeypatch.setattr(shards, "HUGE_PAGE", 0)
    monkeypatch.setattr(shards, "RESIDENT_BYTES", 6 * 15)
    reader = write(tmp_path, 10, 4)
    maps = MapCounter(monkeypatch)
    for _ in range(9):
        reader.rows(np.array([0, 2]))  # a shard takes no more room than it has bytes, however often it is read
    assert maps.made == 1
    reader.rows(np.array([4, 5]))  # six rows: just enough
    assert maps.made == 2
    reader.rows(np.array([1]))  # the first shard counts as read already
    assert maps.made == 2
    reader.rows(np.array([6]))  # the seventh row: all let go, and one mapped anew
    assert (maps.made, maps.most) == (3, 2)
    reader.rows(np.array([0, 1, 2, 4, 5, 8]))  # 1 + 3, of its own shard 2 more, then one more
    assert (maps.made, maps.most) == (5, 2)


def test_a_page_fault_may_map_what_is_around_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of 15 bytes may bring two huge pages in: there is room for three of them, in three large shards."""
    monkeypatch.setattr(shards, "HUGE_PAGE", 1000)
    monkeypatch.setattr(shards, "RESIDENT_BYTES", 3 * 2015)
    reader = write(tmp_path, 1200, 400)
    maps = MapCounter(monkeypatch)
    reader.rows(np.array([0, 400, 800]))
    assert (maps.made, maps.most) == (3, 3)
    reader.rows(np.array([1]))
    assert maps.made == 4


def test_a_small_set_stays_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = write(tmp_path, 50, 7)
    maps = MapCounter(monkeypatch)
    for seed in range(300):
        reader.rows(np.random.Generator(np.random.PCG64(seed)).permutation(50))
    assert maps.made == 8


def test_one_batch_may_exceed_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "RESIDENT_BYTES", 1)
    np.testing.assert_array_equal(write(tmp_path, 8, 4).rows(np.arange(8)), make_rows(8))


LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")

STREAM = """
import json, resource, sys
from pathlib import Path
import numpy as np
from facespec.data import shards
from facespec.data.batches import Preset, iterate_batches
from facespec.data.faceset import FaceSet

directory, files, shards.RESIDENT_BYTES, steps = Path(sys.argv[1]), *map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

def measure(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

faces = FaceSet.open(directory)
preset = Preset("small", faces.height, faces.channels, resize=None, shift=2, flip=True, grey_probability=0.0)
generator = np.random.Generator(np.random.PCG64(1))
n_read, wrong = 0, 0
batches = iterate_batches(faces, np.arange(faces.n), batch_size=16, preset=preset, generator=generator)
for step, batch in enumerate(batches):
    if step == 1:
        warm, mapped = measure("VmHWM"), [measure("RssFile")]
    if step == steps:
        break
    if step:
        mapped.append(measure("RssFile"))
    n_read += len(batch.positions)
    wrong += int((batch.images != -1).sum())  # black
grown, mapped = measure("VmHWM") - warm, max(mapped) - mapped[0]
print(json.dumps({"n": faces.n, "read": n_read, "wrong": wrong, "grown": grown, "mapped": mapped}))
"""


def run_stream(directory: Path, *, resident: int, steps: int) -> dict[str, int]:
    """The counts of a process that streams `steps` shuffled batches of 16, with a low limit on open files."""
    arguments = [str(directory), str(shards.OPEN_SHARDS + 64), str(resident), str(steps)]
    process = subprocess.run(
        [sys.executable, "-c", STREAM, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def write_sparse(directory: Path, shape: tuple[int, ...], shard_size: int) -> None:
    """A FaceSet of black RGB images that takes no room on the disk: its shards are holes."""
    n = shape[0]
    directory.mkdir()
    lines = "".join(f"{i},train,{i % 1251},,,\n" for i in range(n))
    (directory / "labels.csv").write_text("stimulus,split,identity,expression,view,session\n" + lines)
    np.save(directory / "images-digests.npy", np.tile(compute_digests(np.zeros((1, *shape[1:]), np.uint8)), (n, 1)))
    head = {
        "version": 2,
        "role": "identity",
        "height": shape[1],
        "width": shape[2],
        "channels": 3,
        "n": n,
        "shard_size": shard_size,
        "regions": None,
        "provenance": {"source": "holes"},
        "digests": digest_files(directory),
    }
    write_document(directory / "faceset.json", head)
    for number, start in enumerate(range(0, n, shard_size)):
        k = min(shard_size, n - start)
        with (directory / f"images-{number:05d}.npy").open("wb") as file:
            npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (k, *shape[1:])})
            file.truncate(file.tell() + k * int(np.prod(shape[1:])))


@LINUX
def test_thirty_gigabytes_stream_in_shuffled_batches_in_little_memory(tmp_path: Path) -> None:
    """200,000 images of 224x224x3. 45 batches touch 103 MiB of files, three times what may stay resident here."""
    write_sparse(tmp_path / "faces", (200_000, 224, 224, 3), 2048)
    if sum(path.stat().st_blocks * 512 for path in (tmp_path / "faces").iterdir()) > 2**30:
        pytest.skip("this file system keeps no holes: 30 GB would really be written")
    result = run_stream(tmp_path / "faces", resident=32 * 2**20, steps=45)
    assert (result["n"], result["read"], result["wrong"]) == (200_000, 45 * 16, 0)
    assert result["mapped"] < 32 * 2**20
    # beside the mapped files: batches in flight (9 MiB as floats, 6 MiB of indices) in an allocator that keeps some of
    # what is freed: 46 to 88 MiB in eight runs, no more after 200 steps than after 45
    assert result["grown"] < 100 * 2**20


@LINUX
def test_many_small_shards_stream_with_few_open_files(tmp_path: Path) -> None:
    """400 shards, in a process that may not hold as many files open."""
    write_sparse(tmp_path / "faces", (1200, 17, 17, 3), 3)
    result = run_stream(tmp_path / "faces", resident=shards.RESIDENT_BYTES, steps=100)
    assert (result["n"], result["read"], result["wrong"]) == (1200, 1200, 0)
