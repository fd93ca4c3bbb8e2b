from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facespec.data import intake as module
from facespec.data.archives import ArchiveFiles, UnusableArchive
from facespec.data.intake import FileEntry, FileImporter, ImportOptions
from facespec.study.errors import StudyError

PATH = Path("faces.zip")


def entry(number: int, *, name: str | None = None, **labels: str) -> FileEntry:
    row = {"split": "train", "expression": "sad"} | labels
    return FileEntry(number, f"{number:03d}.png", name or f"face {number:03d}", **row)


def load(entry: FileEntry) -> Image.Image:
    """A 48x48 px picture, another one for every place."""
    return Image.new("L", (48, 48), entry.place % 256)


def silent(done: int, total: int) -> None:
    del done, total


def taken(entries: list[FileEntry], wanted: ImportOptions = ImportOptions(48, 1, 0.0)) -> FileImporter:  # noqa: B008 - frozen
    intake = FileImporter(PATH, "toy", wanted)
    for _ in intake.chunks(entries, load, report=silent):
        pass
    return intake


def failing(entry: FileEntry) -> Image.Image:
    if entry.place < 0:
        raise UnusableArchive("torn", known=entry.place < -100)
    return load(entry)


def outcome(bad: int, good: int, tolerated: float) -> FileImporter:
    intake = FileImporter(PATH, "toy", ImportOptions(48, 1, tolerated))
    entries = [entry(-i) for i in range(bad, 0, -1)] + [entry(i) for i in range(good)]
    for _ in intake.chunks(entries, failing, report=silent):
        pass
    return intake


def test_more_than_the_tolerated_share_is_refused_with_examples() -> None:
    with pytest.raises(StudyError) as caught:
        outcome(5, 195, 0.0225)
    assert str(caught.value) == (
        "faces.zip: 5 of 200 images (2.50%) cannot be used; at most 2.25% may be left out (data.tolerated). "
        "First: -01.png: torn; -02.png: torn; -03.png: torn. "
        "Fetch the data set again, or raise data.tolerated in params.yaml."
    )


def test_the_tolerated_share_itself_is_tolerated_and_every_file_listed() -> None:
    excluded = outcome(5, 195, 0.025).provenance()["excluded"]
    assert excluded == [{"file": f"-0{i}.png", "reason": "torn"} for i in range(1, 6)]
    outcome(0, 3, 0.0)
    with pytest.raises(StudyError, match=r"1 of 4 images \(25.00%\)"):
        outcome(1, 3, 0.0)
    with pytest.raises(StudyError, match=r"4 of 4 images \(100.00%\)"):
        outcome(4, 0, 0.9)


def test_files_that_are_bad_in_every_copy_are_listed_but_tolerated() -> None:
    intake = FileImporter(PATH, "toy", ImportOptions(48, 1, 0.0))
    list(intake.chunks([entry(-101), entry(1)], failing, report=silent))
    assert intake.provenance()["excluded"] == [{"file": "-101.png", "reason": "torn"}]


def test_other_files_count_only_if_they_are_pictures() -> None:
    files = ArchiveFiles(
        (), (("../x.jpg", "leads out"), ("../x.sh", "leads out")), opener=lambda name: pytest.fail(name)
    )
    intake = FileImporter(PATH, "toy", ImportOptions(48, 1, 0.0))
    intake.exclude_others(files, ["READ.ME", "banner.png"], why="elsewhere")
    with pytest.raises(StudyError) as caught:
        list(intake.chunks([entry(1), entry(2)], load, report=silent))
    assert "2 of 4 images (50.00%)" in str(caught.value)
    assert "First: ../x.jpg: leads out; banner.png: elsewhere. Fetch" in str(caught.value)
    assert [row["file"] for row in intake.provenance()["excluded"]] == ["../x.jpg", "../x.sh", "READ.ME", "banner.png"]


def test_entries_come_in_the_order_of_their_names_and_once() -> None:
    intake = FileImporter(PATH, "toy", ImportOptions(48, 1, 0.9))
    entries = [entry(3, name="b"), entry(2, name="a"), entry(1, name="b"), entry(4, name="c")]
    assert [e.place for e in intake.distinct(entries)] == [2, 1, 4]
    assert intake.provenance()["excluded"] == [{"file": "003.png", "reason": "the same face as 001.png, by its name"}]


@pytest.mark.parametrize(
    ("wanted", "most"), [(ImportOptions(48, 1, 0), 512), (ImportOptions(512, 3, 0), 2**25 // (512 * 512 * 3))]
)
def test_chunks_are_bounded_lazy_and_reported(wanted: ImportOptions, most: int) -> None:
    loaded, reports = [], []

    def counting(entry: FileEntry) -> Image.Image:
        loaded.append(entry.place)
        return load(entry)

    intake = FileImporter(PATH, "toy", wanted)
    entries = [entry(i) for i in range(2 * most + 3)]
    chunks = intake.chunks(entries, counting, report=lambda *numbers: reports.append(numbers))
    assert loaded == []
    first = next(chunks)
    assert loaded == list(range(most))
    shape = (most, wanted.size, wanted.size, 3)[: 3 if wanted.channels == 1 else 4]
    assert first.images.shape == shape and first.images.dtype == np.uint8
    assert [len(chunk.labels) for chunk in chunks] == [most, 3]
    assert reports == [(n, len(entries)) for n in (most, 2 * most, len(entries))]


def test_images_and_labels_stay_together_across_gaps() -> None:
    intake = FileImporter(PATH, "toy", ImportOptions(48, 1, 0.9))
    entries = [entry(7, expression="happy"), entry(-1), entry(9, split="test")]
    (chunk,) = intake.chunks(entries, failing, report=silent)
    assert chunk.images[:, 0, 0].tolist() == [7, 9]
    assert chunk.labels.to_dict("list") == {
        "stimulus": ["face 007", "face 009"],
        "split": ["train", "test"],
        "identity": ["", ""],
        "expression": ["happy", "sad"],
        "view": ["", ""],
        "session": ["", ""],
    }


def test_counts_by_every_label() -> None:
    probe = {"split": "probe", "view": "straight", "identity": "F01"}
    entries = [
        entry(1),
        entry(2, split="test"),
        entry(3, session="A", **probe),
        entry(4, session="B", **(probe | {"expression": "happy"})),
        entry(5, identity="F02"),
    ]
    counts = {"images": 5, "people": 2, "train": 2, "test": 1, "probe": 2, "sad": 4, "happy": 1}
    counts |= {"train sad": 2, "test sad": 1, "straight": 2, "session A": 1, "session B": 1}
    assert taken(entries).provenance()["counts"] == counts


def content(entries: list[FileEntry], wanted: ImportOptions = ImportOptions(48, 1, 0.0)) -> str:  # noqa: B008 - frozen
    return str(taken(entries, wanted).provenance()["content"])


@given(st.permutations(range(6)), st.sampled_from([32, 48, 64]), st.sampled_from([1, 3]))
def test_the_content_hash_knows_pictures_and_labels_only(order: list[int], size: int, channels: int) -> None:
    renamed = [entry(i, name=f"other {i}")._replace(file=f"{i}.jpg") for i in order]
    assert content(renamed, ImportOptions(size, channels, 0.5)) == content([entry(i) for i in range(6)])


def test_the_content_hash_changes_with_any_picture_or_label() -> None:
    entries = [entry(i) for i in range(3)]
    others = [
        [*entries[:2], entry(9)],
        entries[:2],
        [*entries, entries[0]],
        [*entries[:2], entry(2, split="test")],
        [*entries[:2], entry(2, expression="happy")],
        [*entries[:2], entry(2, identity="F01")],
    ]
    hashes = [content(other) for other in [entries, *others]]
    assert len(set(hashes)) == len(hashes) and all(len(text) == 64 and int(text, 16) >= 0 for text in hashes)


def test_shards_hold_as_many_faces_as_embedded_ones() -> None:
    from facespec.data.embedded import production

    assert module.SHARD == production.SHARD
