"""An import counts what came in, lists what did not, and refuses the whole if too many pictures are bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facespec.data import importing
from facespec.data.archives import ArchiveFiles, UnusableFile
from facespec.data.chunks import FaceChunk
from facespec.data.embedded import production
from facespec.data.importing import FileEntry, FileImporter, ImportOptions
from facespec.study.errors import StudyError


def make_entry(number: int, *, name: str | None = None, **labels: str) -> FileEntry:
    return FileEntry(
        number, f"{number:03d}.png", name or f"face {number:03d}", **{"split": "train", "expression": "sad"} | labels
    )


def make_importer(tolerated: float = 0.0, size: int = 48, channels: int = 1) -> FileImporter:
    return FileImporter(Path("faces.zip"), "toy", ImportOptions(size, channels, tolerated))


def load(entry: FileEntry) -> Image.Image:
    """A 48x48 px picture whose grey is the number of the entry; negative numbers are damaged, below -100 everywhere."""
    if entry.location < 0:
        raise UnusableFile("torn", in_every_copy=entry.location < -100)
    return Image.new("L", (48, 48), entry.location % 256)


def run_import(importer: FileImporter, entries: list[FileEntry]) -> list[FaceChunk]:
    return list(importer.iterate_chunks(entries, load, report=lambda done, total: None))


def list_excluded(importer: FileImporter) -> dict[str, str]:
    return {row["file"]: row["reason"] for row in importer.summarise()["excluded"]}


@pytest.mark.parametrize(
    ("bad", "good", "tolerated", "fragment"),
    [(5, 195, 0.0225, r"5 of 200 images \(2.50%\)"), (1, 3, 0.0, r"1 of 4 .*25.00%"), (4, 0, 0.9, r"4 of 4 .*100.00%")],
)
def test_more_bad_files_than_tolerated_are_refused(bad: int, good: int, tolerated: float, fragment: str) -> None:
    entries = [make_entry(i) for i in range(-bad, good)]
    with pytest.raises(StudyError, match=rf"^faces.zip: {fragment}.*data.tolerated.* First: -01.png: torn"):
        run_import(make_importer(tolerated), entries)


def test_the_tolerated_share_itself_is_tolerated_and_every_file_listed() -> None:
    importer = make_importer(0.025)
    run_import(importer, [make_entry(i) for i in range(-5, 195)])
    assert list_excluded(importer) == {f"-0{i}.png": "torn" for i in range(1, 6)}
    run_import(make_importer(0.0), [make_entry(i) for i in range(3)])


def test_files_that_are_bad_in_every_copy_are_listed_but_tolerated() -> None:
    importer = make_importer()
    run_import(importer, [make_entry(-101), make_entry(1)])
    assert list_excluded(importer) == {"-101.png": "torn"}


def test_other_files_count_only_if_they_are_pictures() -> None:
    refused = (("../x.jpg", "leads out"), ("../x.sh", "leads out"))
    importer = make_importer()
    importer.exclude_others(
        ArchiveFiles((), refused, opener=pytest.fail), ["READ.ME", "banner.png"], reason="elsewhere"
    )
    with pytest.raises(
        StudyError, match=r"2 of 4 .* First: \.\./x.jpg: leads out; banner.png: elsewhere. Fetch the data set again"
    ):
        run_import(importer, [make_entry(1), make_entry(2)])
    assert list(list_excluded(importer)) == ["../x.jpg", "../x.sh", "READ.ME", "banner.png"]


def test_entries_are_sorted_by_name_and_unique() -> None:
    importer = make_importer(0.9)
    entries = [make_entry(number, name=name) for number, name in ((3, "b"), (2, "a"), (1, "b"), (4, "c"))]
    assert [entry.location for entry in importer.drop_duplicates(entries)] == [2, 1, 4]
    assert list_excluded(importer) == {"003.png": "the same face as 001.png, by its name"}


@pytest.mark.parametrize(("size", "channels", "most"), [(48, 1, 512), (512, 3, 2**25 // (512 * 512 * 3))])
def test_chunks_are_bounded_lazy_and_reported(size: int, channels: int, most: int) -> None:
    loaded, reports = [], []

    def load_and_count(entry: FileEntry) -> Image.Image:
        loaded.append(entry.location)
        return load(entry)

    entries = [make_entry(i) for i in range(2 * most + 3)]
    importer = make_importer(size=size, channels=channels)
    chunks = importer.iterate_chunks(entries, load_and_count, report=lambda *numbers: reports.append(numbers))
    assert loaded == []
    first = next(chunks)
    assert loaded == list(range(most))
    assert first.images.dtype == np.uint8
    assert first.images.shape == ((most, size, size) if channels == 1 else (most, size, size, 3))
    assert [len(chunk.labels) for chunk in chunks] == [most, 3]
    assert reports == [(n, len(entries)) for n in (most, 2 * most, len(entries))]


def test_images_and_labels_stay_together_across_gaps() -> None:
    entries = [make_entry(7, expression="happy"), make_entry(-1), make_entry(9, split="test")]
    (chunk,) = run_import(make_importer(0.9), entries)
    assert chunk.images[:, 0, 0].tolist() == [7, 9]
    assert chunk.labels.to_numpy().tolist() == [
        ["face 007", "train", "", "happy", "", ""],
        ["face 009", "test", "", "sad", "", ""],
    ]
    assert list(chunk.labels) == ["stimulus", "split", "identity", "expression", "view", "session"]


def test_counts_by_every_label() -> None:
    probe = {"split": "probe", "view": "straight", "identity": "F01"}
    importer = make_importer()
    entries = [
        make_entry(1),
        make_entry(2, split="test"),
        make_entry(3, session="A", **probe),
        make_entry(4, session="B", **(probe | {"expression": "happy"})),
        make_entry(5, identity="F02"),
    ]
    run_import(importer, entries)
    counts = {"images": 5, "people": 2, "train": 2, "test": 1, "probe": 2, "sad": 4, "happy": 1}
    counts |= {"train sad": 2, "test sad": 1, "straight": 2, "session A": 1, "session B": 1}
    assert importer.summarise()["counts"] == counts


def hash_content(entries: list[FileEntry], size: int = 48, channels: int = 1) -> str:
    importer = make_importer(0.5, size, channels)
    run_import(importer, entries)
    return str(importer.summarise()["content"])


@settings(max_examples=20)
@given(st.permutations(range(6)), st.sampled_from([32, 48, 64]), st.sampled_from([1, 3]))
def test_the_content_hash_depends_on_pictures_and_labels_only(order: list[int], size: int, channels: int) -> None:
    renamed = [make_entry(i, name=f"other {i}")._replace(file=f"{i}.jpg") for i in order]
    assert hash_content(renamed, size, channels) == hash_content([make_entry(i) for i in range(6)])


def test_the_content_hash_changes_with_any_picture_or_label() -> None:
    entries = [make_entry(i) for i in range(3)]
    changed = [make_entry(9), *(make_entry(2, **{name: value}) for name, value in CHANGES.items())]
    variants = [entries, entries[:2], [*entries, entries[0]], *([*entries[:2], entry] for entry in changed)]
    hashes = {hash_content(variant) for variant in variants}
    assert len(hashes) == len(variants) and all(len(text) == 64 and int(text, 16) >= 0 for text in hashes)


CHANGES = {"split": "test", "expression": "happy", "identity": "F01"}


def test_shards_hold_as_many_faces_as_embedded_ones() -> None:
    assert importing.SHARD == production.SHARD
