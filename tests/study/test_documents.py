"""YAML and JSON are read strictly: as DVC reads them, or refused in one sentence."""

from __future__ import annotations

import datetime
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facespec.study.documents import MAX_DEPTH, parse_mapping, parse_yaml, read_json, read_mapping, read_text
from facespec.study.errors import StudyError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # DVC's own, while it is imported
    from dvc.utils.serialize import loads_yaml

Read = Callable[[Path], Any]
READERS: list[Read] = [read_text, read_mapping, read_json]


def refusal(read: Read, path: Path, content: bytes | str | None = None) -> str:
    """The message about the file `path`, after its name."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(StudyError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path.parent)) and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}").removeprefix(": ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("1e-5", 0.00001),
            ("1E+3", 1000.0),
            ("1.e1", 10.0),
            (".5", 0.5),
            ("-1e-300", -1e-300),
            (".inf", float("inf")),
        ),
        *(("010", 10), ("0o10", 8), ("0x10", 16), ("0b11", 3), ("1_000", 1000)),
        *(("yes", "yes"), ("off", "off"), ("y", "y"), ("true", True), ("False", False)),
        *(("~", None), ("null", None), ("", None), ("# nothing", None)),
        *(("12:30:45", "12:30:45"), ("1:2", "1:2"), ("2001-02-03", datetime.date(2001, 2, 3))),
        *(("'010'", "010"), ('"1e-5"', "1e-5"), ("a #b", "a"), ("a#b", "a#b")),
        *(("\ufeffa: 1", {"a": 1}), ("%YAML 1.1\n---\nyes", True)),
    ],
)
def test_values_are_those_of_dvc(text: str, value: Any) -> None:
    parsed, expected = parse_yaml(text, name="x"), loads_yaml(text)
    assert (parsed, type(parsed)) == (value, type(value)) == (expected, type(expected))


scalars = st.text("0123456789+-_.:eExXoObBaAfFnNyYtTrRuUsSlL~", min_size=1, max_size=12)


@settings(max_examples=3 * settings.default.max_examples)
@given(scalars | scalars.map("a: {0}\nb: [{0}]\n".format) | st.text(max_size=20))
def test_any_text_is_refused_or_read_as_by_dvc(text: str) -> None:
    try:
        parsed = parse_yaml(text, name="x")
    except StudyError:
        return  # stricter than DVC
    assert repr(parsed) == repr(loads_yaml(text))


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["r", ".3e", ".1f", "g"]))
def test_numbers_written_in_any_format_are_read_as_by_dvc(number: float, style: str) -> None:
    text = repr(number) if style == "r" else format(number, style)
    assert parse_yaml(text, name="x") == loads_yaml(text) == float(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  d: {e: 1}\n  c: 2\n", "x, line 5: the key 'c' is given twice: keep one of them."),
        ("a: [{b: {c: 1, 'c': 2}}]", "x, line 1: the key 'c' is given twice: keep one of them."),
        ("1: a\n0x1: b", "x, line 2: the key '1' is given twice: keep one of them."),
        ("a: &b [1]\nc: *b", "x, line 2: *b stands for another part of the document: write that out."),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "x, line 2: *a stands for another part of the document"),
        ("a: &b [*b]", "x, line 1: *b stands for another part of the document: write that out."),
        (
            "a: !!python/object/apply:os.system [ls]",
            "x, line 1: the tag tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("a: !!set {b, c}", "x, line 1: the tag tag:yaml.org,2002:set is not read: write a plain value."),
        ("a: 1\n<<<<<<< HEAD\nb: 1", "x, line 2: holds conflict markers of an unfinished merge (<<<<<<<): resolve it."),
        ("a: 1\r\n=======\r\nb: 2\r\n", "x, line 2: holds conflict markers of an unfinished merge (=======): resolve"),
        ("a:\n  - [1, 2\n", "x: not valid YAML: expected ',' or ']', but got '<stream end>' in line 3."),
        ("a: 1\n b: 2", "x: not valid YAML: mapping values are not allowed here in line 2."),
        ("a\n---\nb", "x: not valid YAML: but found another document in line 2."),
        ("a: 1\nb: \x07", "x, line 2: the character '\\x07' cannot be read: remove it."),
        ("2001-13-45", "x: not valid YAML: month must be in 1..12."),
        ("-_", "x: not valid YAML: invalid literal for int() with base 10: ''."),
        *(
            (unit * 500, "x, line 1: lists and mappings are nested more than 50 deep")
            for unit in ("[", "{a: ", "- ", "? ")
        ),
    ],
)
def test_yaml_that_is_not_plain_is_refused(text: str, message: str) -> None:
    with pytest.raises(StudyError, match=f"^{re.escape(message)}"):
        parse_yaml(text, name="x")


def test_lists_may_be_nested_up_to_the_limit() -> None:
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert repr(parse_yaml(text, name="x")) == text


def test_values_other_than_mappings_are_refused(tmp_path: Path) -> None:
    assert parse_mapping("a: 1", name="x") == {"a": 1}
    for content, got in {"- 1": "a list", "words": "text", "7": "a number", "true": "true or false"}.items():
        assert refusal(read_mapping, tmp_path / "x", content) == f"expected a mapping (name: value), got {got}."
    for content in ("", "# a comment alone\n", "~", "---\n"):
        assert refusal(read_mapping, tmp_path / "x", content).startswith("empty, where a mapping was expected. Restore")


@pytest.mark.parametrize("read", READERS)
def test_other_encodings_are_refused(read: Read, tmp_path: Path) -> None:
    path, text = tmp_path / "x", '{"caf\xe9": 1}'
    for encoding, problem in {
        "latin-1": "invalid continuation byte at byte 5",
        "utf-16": "invalid start byte at byte 0",
    }.items():
        assert refusal(read, path, text.encode(encoding)) == f"not UTF-8 ({problem}): save it as UTF-8."
    for content in ('{"a": 1}'.encode("utf-16-le"), b"\0" * 100, b'{"a": 1}\0\0'):
        assert refusal(read, path, content).startswith("not UTF-8 text, as there are NUL bytes in it: save it as UTF-8")
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_bytes(text.encode(encoding))
        assert read(path) in ({"caf\xe9": 1}, text)


@pytest.mark.parametrize("read", READERS)
def test_files_that_cannot_be_opened_are_explained(read: Read, tmp_path: Path) -> None:
    """How each error of the system is explained: test_errors.py."""
    assert refusal(read, tmp_path / "absent").startswith("no such file or directory. Check its name")
    (tmp_path / "directory").mkdir()
    assert refusal(read, tmp_path / "directory").startswith("a directory, where a file belongs.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1, "a": 2}', "not a valid JSON file (the key 'a' is given twice). It may be truncated: make it again."),
        ('{"b": [{"a": 1, "a": 1}]}', "not a valid JSON file (the key 'a' is given twice)."),
        ('{"a": NaN}', "not a valid JSON file (NaN is not a finite number)."),
        ('{"a": -Infinity}', "not a valid JSON file (-Infinity is not a finite number)."),
        ('{"a": 1e999}', "not a valid JSON file (1e999 is not a finite number)."),
        ('{"a": ', "not a valid JSON file (Expecting value: line 1 column 7 (char 6))."),
        ('{"a":' * 100_000, "lists and objects are nested too deeply in it. Make it again."),
        ("[]", "expected a JSON object, got a list. Make it again."),
        ("null", "expected a JSON object, got null. Make it again."),
        ("", "empty, where a JSON object was expected. Restore it, or make it again."),
        (" \n", "empty, where a JSON object was expected. Restore it, or make it again."),
        ('{\n<<<<<<< HEAD\n"a": 1\n', ", line 2: holds conflict markers of an unfinished merge (<<<<<<<): resolve it."),
    ],
)
def test_invalid_json_is_refused(tmp_path: Path, content: str, message: str) -> None:
    assert refusal(read_json, tmp_path / "x", content).startswith(message)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(content)
    for read in (read_mapping, read_json):
        try:
            read(path)
        except StudyError as error:
            assert str(error).startswith(os.fspath(path))
