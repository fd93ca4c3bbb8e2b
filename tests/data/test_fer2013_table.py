from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespec.data import fer2013 as fer2013_module
from facespec.data import fer2013_table as module
from facespec.data.intake import ImportOptions
from facespec.study.errors import StudyError


def test_codes_usages_names_pixels_and_counts_from_the_table(fer2013: Any, tmp_path: Path) -> None:
    some = fer2013.faces()
    faceset = fer2013.imported(fer2013.packed(tmp_path, "file", fer2013.as_table(some)), tmp_path / "set")
    labels = faceset.labels
    assert list(labels["stimulus"]) == sorted(labels["stimulus"])
    for index, stimulus in enumerate(labels["stimulus"]):
        face = some[int(stimulus[-5:])]
        split = {"Training": "train", "PublicTest": "test", "PrivateTest": "test"}[face.usage]
        assert stimulus.startswith(f"{split}/{fer2013.names[face.code]}/{face.usage}_")
        assert (labels["split"][index], labels["expression"][index]) == (split, fer2013.names[face.code])
        assert np.array_equal(faceset.images(np.array([index]))[0], face.pixels)
    assert (labels[["identity", "view", "session"]] == "").all(axis=None)
    counts = {"images": 21, "train": 7, "test": 14} | dict.fromkeys(fer2013.names, 3)
    counts |= {f"train {name}": 1 for name in fer2013.names} | {f"test {name}": 2 for name in fer2013.names}
    provenance = faceset.provenance
    content = provenance.pop("content")
    assert provenance == {"source": "FER2013", "counts": counts, "excluded": [], "notes": []}
    assert len(content) == 64 and (faceset.role, faceset.source) == ("expression", "FER2013")


def test_two_tables(fer2013: Any, tmp_path: Path) -> None:
    files = fer2013.as_table(fer2013.faces()) | {
        "a/icml.csv": fer2013.table([], ["emotion", " Usage", " pixels"]),
        "train.csv": b"a,b\n",
    }
    assert fer2013.refused(tmp_path, files) == (
        "PATH: holds several tables: a/icml.csv, fer2013.csv. Unpack it and give the path of one."
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"emotion,pixels\n", "lacks the column 'Usage'; it has 'emotion', 'pixels'."),
        (
            b" emotion,pixel,Usage\n",
            "lacks the column 'pixels'; it has 'emotion', 'pixel', 'Usage'. Column 'pixel': "
            "did you mean 'pixels'? Allowed: 'emotion', 'pixels', 'Usage'.",
        ),
        (b"", "lacks the column 'emotion', 'pixels', 'Usage'; it has none."),
        (b"\x00\xff\xfe", "is no text in UTF-8. Save it as CSV in UTF-8."),
        ("emotion,pixels,Usage\n".encode("utf-16"), "is no text in UTF-8. Save it as CSV in UTF-8."),
        ("emotion\tpixels\tUsage\n".encode("utf-16-be"), "is no text in UTF-8. Save it as CSV in UTF-8."),
        (b"\xc9motion,pixels,Usage\n", "is no text in UTF-8. Save it as CSV in UTF-8."),
    ],
)
def test_missing_column(fer2013: Any, content: bytes, sentence: str, tmp_path: Path) -> None:
    assert fer2013.refused(tmp_path, {"fer.csv": content}, kind="file") == f"PATH: fer.csv {sentence} {fer2013.forms}"


def with_pixel(word: str) -> Callable[[list[str]], list[str]]:
    return lambda cells: [cells[0], " ".join(["7", word, *cells[1].split()[2:]]), cells[2]]


BAD_ROWS = {
    "too few pixels": (lambda c: [c[0], c[1].rsplit(" ", 1)[0], c[2]], "2303 pixels instead of 2304"),
    "too many pixels": (lambda c: [c[0], c[1] + " 1", c[2]], "2305 pixels instead of 2304"),
    "no pixels": (lambda c: [c[0], "", c[2]], "0 pixels instead of 2304"),
    "pixel above": (with_pixel("256"), "pixel 1 is '256', allowed: whole numbers from 0 to 255"),
    "pixel below": (with_pixel("-1"), "pixel 1 is '-1', allowed: whole numbers from 0 to 255"),
    "broken number": (with_pixel("1.5"), "pixel 1 is '1.5', allowed: whole numbers from 0 to 255"),
    "infinity": (with_pixel("inf"), "pixel 1 is 'inf', allowed: whole numbers from 0 to 255"),
    "no text": (with_pixel("1\0"), "pixel 1 is '1\\x00', allowed: whole numbers from 0 to 255"),
    "infinite emotion": (lambda c: ["inf", *c[1:]], "unknown emotion 'inf', allowed: '0' to '6'"),
    "a word": (with_pixel("nan"), "pixel 1 is 'nan', allowed: whole numbers from 0 to 255"),
    "unknown emotion": (lambda c: ["7", *c[1:]], "unknown emotion '7', allowed: '0' to '6'"),
    "named emotion": (lambda c: ["happy", *c[1:]], "unknown emotion 'happy', allowed: '0' to '6'"),
    "unknown usage": (
        lambda c: [*c[:2], "Traning"],
        "unknown Usage 'Traning': did you mean 'Training'? Allowed: 'Training', 'PublicTest', 'PrivateTest'.",
    ),
    "cut row": (lambda c: c[:1], "1 cells instead of at least 3"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row(fer2013: Any, case: str, tmp_path: Path) -> None:
    spoil, reason = BAD_ROWS[case]
    rows = [fer2013.row(face) for face in fer2013.faces()]
    rows.insert(4, spoil(rows[0]))
    assert fer2013.refused(tmp_path, {"fer.csv": fer2013.table(rows)}, kind="file") == (
        "PATH: 1 of 22 images (4.55%) cannot be used; at most 0.00% may be left out (data.tolerated). "
        f"First: fer.csv, row 4: {reason}. Fetch the data set again, or raise data.tolerated in params.yaml."
    )
    faceset = fer2013.imported(tmp_path / "fer.csv", tmp_path / "set", ImportOptions(48, 1, 0.05))
    assert faceset.n == 21 and faceset.provenance["excluded"] == [{"file": "fer.csv, row 4", "reason": reason}]
    assert not faceset.labels["stimulus"].str.endswith("_00004").any()


def test_table_damaged_within_its_archive(fer2013: Any, tmp_path: Path) -> None:
    path = fer2013.packed(tmp_path, ".zip", fer2013.as_table(fer2013.faces()), method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    assert fer2013.refused(tmp_path, {"b.zip": bytes(content)}, kind="file") == (
        "PATH: fer2013.csv cannot be read to its end (Bad CRC-32 for file 'fer2013.csv'). Fetch it again."
    )


def test_table_behind_a_password(fer2013: Any, tmp_path: Path) -> None:
    content = bytearray(
        fer2013.packed(tmp_path, ".zip", fer2013.as_table(fer2013.faces()), method=zipfile.ZIP_STORED).read_bytes()
    )
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + flags] |= 1
    assert fer2013.refused(tmp_path, {"b.zip": bytes(content)}, kind="file") == (
        "PATH: fer2013.csv cannot be read to its end (cannot be opened). Fetch it again."
    )


def test_table_with_a_cell_without_end(fer2013: Any, tmp_path: Path) -> None:
    assert fer2013.refused(tmp_path, {"fer.csv": b'"' + b"x" * 200_000}, kind="file") == (
        f"PATH: fer.csv lacks the column 'emotion', 'pixels', 'Usage'; it has none. {fer2013.forms}"
    )


def test_a_line_without_end_does_not_fill_the_memory(fer2013: Any, tmp_path: Path) -> None:
    rows = fer2013.as_table(fer2013.faces())["fer2013.csv"] + b"0," + b"1 " * 200_000 + b'\n"'
    faceset = fer2013.imported(
        fer2013.packed(tmp_path, "file", {"fer.csv": rows}), tmp_path / "set", ImportOptions(48, 1, 0.5)
    )
    reasons = [row["reason"] for row in faceset.provenance["excluded"]]
    # the line falls into pieces of 65,536 characters
    assert reasons == ["2 cells instead of at least 3"] + ["1 cells instead of at least 3"] * 7


def test_a_table_in_folders_is_named_with_them(fer2013: Any, tmp_path: Path) -> None:
    files = {"a/fer.csv": fer2013.table([*map(fer2013.row, fer2013.faces()), ["0"]])}
    assert "First: a/fer.csv, row 21: 1 cells instead of at least 3." in fer2013.refused(tmp_path, files)


def test_a_table_that_changes_or_goes_while_it_is_read(
    fer2013: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = module.choose
    for content, reason in ((None, "no longer there"), (b"", "its header was another a moment ago")):
        path = fer2013.packed(tmp_path, "file", fer2013.as_table(fer2013.faces()))

        def choosing(*arguments: Any, **more: Any) -> str | None:
            found = really(*arguments, **more)
            path.unlink() if content is None else path.write_bytes(content)  # noqa: B023 - called in this round
            return found

        monkeypatch.setattr(fer2013_module, "choose", choosing)
        with pytest.raises(StudyError) as caught:
            fer2013.imported(path, tmp_path / "set")
        assert str(caught.value) == f"{path}: fer2013.csv cannot be read to its end ({reason}). Fetch it again."
        monkeypatch.undo()


def test_empty_lines_are_no_rows(fer2013: Any, tmp_path: Path) -> None:
    content = fer2013.as_table(fer2013.faces())["fer2013.csv"].replace(b"\r\n", b"\r\n\r\n")
    faceset = fer2013.imported(fer2013.packed(tmp_path, "file", {"fer.csv": content}), tmp_path / "set")
    assert sorted(faceset.labels["stimulus"].str[-2:].astype(int)) == list(range(21))


MISSING = "The study needs all seven expressions in both splits. Is the copy complete?"


def test_table_without_rows(fer2013: Any, tmp_path: Path) -> None:
    every = ", ".join(map(repr, sorted(fer2013.names)))
    assert fer2013.refused(tmp_path, {"fer.csv": fer2013.table([])}, kind="file") == (
        f"PATH: no train images of {every}; no test images of {every}. {MISSING} {fer2013.forms}"
    )
