"""Files that carry a digest of all they hold: what is written is read, and nothing else is."""

import hashlib
import json

import pytest

from facespec.study.artefacts import (
    check_file,
    digest_file,
    read_document,
    write_document,
)
from facespec.study.errors import StudyError

REMEDY = "Make it again."
CONTENT = {"version": 1, "name": "probe", "counts": {"images": 4}, "files": ["a", "b"]}


def test_the_digest_of_a_file_is_that_of_sha256sum(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")

    digest = digest_file(tmp_path / "a")

    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    check_file(tmp_path / "a", digest, remedy=REMEDY)


def test_other_bytes_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"abd")

    with pytest.raises(StudyError, match=r"a: not the bytes that were written there.*Make it again\."):
        check_file(tmp_path / "a", hashlib.sha256(b"abc").hexdigest(), remedy=REMEDY)


def test_a_document_is_read_as_it_was_written(tmp_path):
    write_document(tmp_path / "d.json", CONTENT)

    assert read_document(tmp_path / "d.json", remedy=REMEDY) == CONTENT
    assert json.loads((tmp_path / "d.json").read_text())["counts"] == {"images": 4}  # readable as any JSON


def test_a_document_with_a_changed_value_is_refused(tmp_path):
    write_document(tmp_path / "d.json", CONTENT)
    text = (tmp_path / "d.json").read_text()
    (tmp_path / "d.json").write_text(text.replace('"images": 4', '"images": 5'))

    with pytest.raises(StudyError, match=r"d\.json: not the content that was written there.*Make it again\."):
        read_document(tmp_path / "d.json", remedy=REMEDY)


@pytest.mark.parametrize(
    "text",
    ["[1, 2]", "{}", '"probe"', '{"digest": 3}', '{"a": NaN, "digest": "0"}', '{"a": NaN, "digest": ""}', ""],
)
def test_what_is_no_document_is_refused(tmp_path, text):
    (tmp_path / "d.json").write_text(text)

    with pytest.raises(StudyError, match=r"d\.json"):
        read_document(tmp_path / "d.json", remedy=REMEDY)
