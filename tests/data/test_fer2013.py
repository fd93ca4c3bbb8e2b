from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.data.intake import ImportOptions

WANTED = ImportOptions(48, 1, 0.0)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(48, 1), (48, 3), (61, 1)]), st.randoms(use_true_random=False))
def test_all_forms_of_the_same_pictures_give_the_same_faces(
    fer2013: Any, seed: int, shape: tuple[int, int], random: Any
) -> None:
    some = fer2013.faces(seed)
    table = fer2013.as_table(some)
    shuffled = list(fer2013.as_folders(some).items())
    random.shuffle(shuffled)
    deep = {f"archive/{name}": content for name, content in shuffled}
    spaced = {
        "README": b"",
        "d/FER.CSV": fer2013.table([fer2013.row(f) for f in some], ["emotion", " pixels", " Usage "]),
    }
    with tempfile.TemporaryDirectory() as directory:
        results = []
        for number, (kind, files) in enumerate(
            [("", dict(shuffled)), (".zip", deep), (".tar.xz", dict(shuffled)), ("file", table), (".tar.xz", table)]
        ):
            at = Path(directory) / str(number)
            at.mkdir()
            results.append(
                fer2013.in_bytes(
                    fer2013.imported(fer2013.packed(at, kind, files), at / "set", ImportOptions(*shape, 0.0))
                )
            )
        assert all(result == results[0] for result in results[1:])
        faceset = fer2013.imported(
            fer2013.packed(Path(directory), ".zip", spaced), Path(directory) / "set", ImportOptions(*shape, 0.0)
        )
        assert faceset.provenance["excluded"] == [{"file": "README", "reason": "not FER2013's table"}]
        assert fer2013.in_bytes(faceset).keys() == results[0].keys()
        for name in fer2013.in_bytes(faceset).keys() - {"faceset.json"}:
            assert fer2013.in_bytes(faceset)[name] == results[0][name]


def test_the_content_is_the_same_under_other_names_order_and_size(fer2013: Any, tmp_path: Path) -> None:
    some = fer2013.faces()
    one = fer2013.imported(fer2013.packed(tmp_path, "", fer2013.as_folders(some)), tmp_path / "one")
    two = fer2013.imported(
        fer2013.packed(tmp_path, "file", fer2013.as_table(some[::-1])), tmp_path / "two", ImportOptions(64, 3, 0.0)
    )
    assert one.provenance["content"] == two.provenance["content"]
    assert list(one.labels["stimulus"]) != list(two.labels["stimulus"])
    changed = [some[0]._replace(code=(some[0].code + 1) % 7), *fer2013.faces(1), *some[1:]]
    three = fer2013.imported(fer2013.packed(tmp_path, ".zip", fer2013.as_table(changed)), tmp_path / "three")
    assert three.provenance["content"] != one.provenance["content"]


def test_nothing_is_read_before_the_first_chunk_but_a_missing_path_is_noticed(fer2013: Any, tmp_path: Path) -> None:
    taken = fer2013.read(tmp_path, WANTED, report=lambda done, total: None)
    fer2013.packed(tmp_path, "", fer2013.as_folders(fer2013.faces())).rename(tmp_path / "later")
    taken.chunks.__next__()
    assert fer2013.missing(tmp_path) == (
        "AT/none: no such file or directory. Give the path of the data set; see docs/data.md."
    )


def test_progress(fer2013: Any, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    path = fer2013.packed(tmp_path, "", fer2013.as_folders(fer2013.faces()))
    list(fer2013.read(path, WANTED, report=lambda *numbers: reports.append(numbers)).chunks)
    assert reports == [(21, 21)]


@pytest.mark.parametrize("kind", ["", ".zip", ".tar.xz"])
def test_neither_table_nor_folders(fer2013: Any, kind: str, tmp_path: Path) -> None:
    assert fer2013.refused(tmp_path, dict.fromkeys(["a.jpg", "b/c.txt", "d", "e"], b"1"), kind=kind) == (
        f"PATH: no FER2013: it holds a.jpg, b/c.txt, d, .... {fer2013.forms}"
    )


def test_another_file(fer2013: Any, tmp_path: Path) -> None:
    assert (
        fer2013.refused(tmp_path, {"x.txt": b"1"}, kind="file") == f"PATH: no FER2013: it holds x.txt. {fer2013.forms}"
    )


@pytest.mark.parametrize("kind", ["", ".zip"])
def test_empty(fer2013: Any, kind: str, tmp_path: Path) -> None:
    assert fer2013.refused(tmp_path, {}, kind=kind) == (
        "PATH: no files in it. Give the directory or archive that holds the data set."
    )


def test_truncated_archive(fer2013: Any, tmp_path: Path) -> None:
    whole = fer2013.packed(tmp_path, ".tar.xz", fer2013.as_folders(fer2013.faces())).read_bytes()
    assert fer2013.refused(tmp_path, {"t.tar.xz": whole[: len(whole) // 2]}, kind="file") == (
        "PATH: not a whole zip or tar archive (Compressed file ended before the end-of-stream marker was reached). "
        "It may be truncated: fetch it again."
    )


def test_table_and_folders_together(fer2013: Any, tmp_path: Path) -> None:
    files = fer2013.as_folders(fer2013.faces())
    assert fer2013.refused(tmp_path, files | fer2013.as_table(fer2013.faces())) == (
        f"PATH: holds both a table (fer2013.csv) and folders ({min(files)}). Give the path of one."
    )


MISSING = "The study needs all seven expressions in both splits. Is the copy complete?"


@pytest.mark.parametrize("form", ["as_table", "as_folders"])
def test_missing_expression(fer2013: Any, form: str, tmp_path: Path) -> None:
    some = [face for face in fer2013.faces() if face.code != 1 and (face.code, face.usage) != (6, "Training")]
    assert fer2013.refused(tmp_path, getattr(fer2013, form)(some)) == (
        f"PATH: no train images of 'disgust', 'neutral'; no test images of 'disgust'. {MISSING} {fer2013.forms}"
    )


def test_missing_split(fer2013: Any, tmp_path: Path) -> None:
    every = ", ".join(map(repr, sorted(fer2013.names)))
    assert fer2013.refused(tmp_path, fer2013.as_table(fer2013.faces(usages=["Training"]))) == (
        f"PATH: no test images of {every}. {MISSING} {fer2013.forms}"
    )
