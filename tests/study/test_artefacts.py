"""Files with digests: they are read as they were written, and altered ones are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from facespec.study.artefacts import check_file, digest_file, read_document, read_header, write_document
from facespec.study.errors import StudyError
from facespec.study.params import Block, Count
from toys import edit_header

CONTENT = {"version": 1, "name": "probe", "counts": {"images": 4}, "files": ["a", "b"]}


def test_the_digest_of_a_file_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    digest = digest_file(tmp_path / "a")
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    check_file(tmp_path / "a", digest, remedy="Make it again.")
    with pytest.raises(StudyError, match=r"a: not the bytes that were written there.*Make it again\."):
        check_file(tmp_path / "a", hashlib.sha256(b"abd").hexdigest(), remedy="Make it again.")


def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_document(tmp_path / "d.json", CONTENT)
    assert read_document(tmp_path / "d.json", remedy="") == CONTENT
    assert json.loads((tmp_path / "d.json").read_text())["counts"] == {"images": 4}


def test_a_changed_document_is_refused(tmp_path: Path) -> None:
    write_document(tmp_path / "d.json", CONTENT)
    text = (tmp_path / "d.json").read_text()
    (tmp_path / "d.json").write_text(text.replace('"images": 4', '"images": 5'))
    with pytest.raises(StudyError, match=r"d\.json: not the content that was written there.*Make it again\."):
        read_document(tmp_path / "d.json", remedy="Make it again.")


@pytest.mark.parametrize("text", ["[1, 2]", "{}", '{"digest": 3}', '{"a": NaN, "digest": "0"}', ""])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(StudyError, match=r"d\.json"):
        read_document(tmp_path / "d.json", remedy="")


class Header(Block):
    n: Count


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "{d}: no toys here (no h.json in it). `dvc repro play` makes them."),
        (
            lambda path: edit_header(path, n=0),
            "{d}/h.json: n: Input should be greater than or equal to 1. Make the toys",
        ),
        (
            lambda path: edit_header(path, m=1),
            "{d}/h.json: the whole file: Value error, unknown key 'm': Allowed: 'n'.",
        ),
        (
            lambda path: path.write_text('{"n": 1}'),
            "{d}/h.json: a JSON object with a digest of its content is expected",
        ),
        (
            lambda path: path.write_text(path.read_text().replace("7", "8")),
            "{d}/h.json: not the content that was written",
        ),
        (lambda path: path.write_text("{"), "{d}/h.json: not a valid JSON file"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "h.json"
    write_document(path, {"n": 7})
    assert read_header(path, Header, content="toys", stage="play") == Header(n=7)
    spoil(path)
    with pytest.raises(StudyError) as caught:
        read_header(path, Header, content="toys", stage="play")
    assert str(caught.value).startswith(message.format(d=tmp_path))
