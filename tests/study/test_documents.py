from __future__ import annotations

import datetime
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facespec.study.documents import (
    DEEPEST,
    parse_mapping,
    parse_yaml,
    read_json,
    read_mapping,
    read_text,
    read_yaml,
)
from facespec.study.errors import StudyError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # DVC's own, while it is imported
    from dvc.utils.serialize import loads_yaml


def refused(read: Any, tmp_path: Path, content: bytes | str) -> str:
    path = tmp_path / "x"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(StudyError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 0.00001),
        ("1e-2", 0.01),
        ("1e5", 100000.0),
        ("1E+3", 1000.0),
        ("1.e1", 10.0),
        (".5", 0.5),
        ("-1e-300", -1e-300),
        (".inf", float("inf")),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("0b11", 3),
        ("1_000", 1000),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("# nothing", None),
        ("12:30:45", "12:30:45"),
        ("1:2", "1:2"),
        ("2001-02-03", datetime.date(2001, 2, 3)),
        ("'010'", "010"),
        ('"1e-5"', "1e-5"),
        ("\ufeffa: 1", {"a": 1}),
        ("a #b", "a"),
        ("a#b", "a#b"),
        ("%YAML 1.1\n---\nyes", True),
    ],
)
def test_the_dialect_is_that_of_dvc(text: str, value: Any) -> None:
    ours, theirs = parse_yaml(text, name="x"), loads_yaml(text)
    assert (ours, type(ours)) == (value, type(value)) == (theirs, type(theirs))


def agree(text: str) -> None:
    try:
        ours = parse_yaml(text, name="x")
    except StudyError:
        return  # stricter we may be
    assert repr(ours) == repr(loads_yaml(text))


@given(st.text("0123456789+-_.:eExXoObBaAfFnNyYtTrRuUsSlL~", min_size=1, max_size=12))
def test_every_plain_scalar_is_what_dvc_reads(text: str) -> None:
    agree(text)
    agree(f"a: {text}\nb: [{text}]\n")


@given(st.text(max_size=20))
def test_any_text_is_what_dvc_reads_or_refused(text: str) -> None:
    agree(text)


@given(st.floats(allow_nan=False), st.sampled_from(["r", ".3e", ".1f", "g"]))
def test_every_way_to_write_a_number_is_what_dvc_reads(number: float, style: str) -> None:
    text = repr(number) if style == "r" else format(number, style)
    if "inf" not in text:
        assert parse_yaml(text, name="x") == loads_yaml(text) == float(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb:\n  c: 1\n  d: {e: 1}\n  c: 2\n", "x, line 5: the key 'c' is given twice: keep one of them."),
        ("a: [{b: {c: 1, 'c': 2}}]", "x, line 1: the key 'c' is given twice: keep one of them."),
        ("1: a\n0x1: b", "x, line 2: the key '1' is given twice: keep one of them."),
        ("a: &b [1]\nc: *b", "x, line 2: *b stands for another part of the document: write that out."),
        ("a: &b [*b]", "x, line 1: *b stands for another part of the document: write that out."),
        (
            "a: !!python/object/apply:os.system [ls]",
            "x, line 1: the tag tag:yaml.org,2002:python/object/apply:os.system is not read: write a plain value.",
        ),
        ("a: !!set {b, c}", "x, line 1: the tag tag:yaml.org,2002:set is not read: write a plain value."),
        (
            "a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n",
            "x, line 2: holds conflict markers of an unfinished merge (<<<<<<<): resolve it.",
        ),
        (
            "a: 1\r\n=======\r\nb: 2\r\n",
            "x, line 2: holds conflict markers of an unfinished merge (=======): resolve it.",
        ),
        ("a:\n  - [1, 2\n", "x: not valid YAML: expected ',' or ']', but got '<stream end>' in line 3."),
        ("a: 1\n b: 2", "x: not valid YAML: mapping values are not allowed here in line 2."),
        ("a\n---\nb", "x: not valid YAML: but found another document in line 2."),
        ("a: 1\nb: \x07", "x, line 2: the character '\\x07' cannot be read: remove it."),
        ("2001-13-45", "x: not valid YAML: month must be in 1..12."),
        ("-_", "x: not valid YAML: invalid literal for int() with base 10: ''."),
    ],
)
def test_yaml_that_is_refused(text: str, problem: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse_yaml(text, name="x")
    assert str(caught.value) == problem


def test_a_billion_laughs_are_refused() -> None:
    lines = [
        "a: &a [lol, lol]",
        *(f"{name}: &{name} [*{below}, *{below}]" for below, name in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    with pytest.raises(StudyError, match=r"line 2: \*a stands for another part"):
        parse_yaml("\n".join(lines), name="x")


@pytest.mark.parametrize("unit", ["[", "{a: ", "- ", "? "])
def test_nesting_has_a_limit(unit: str) -> None:
    with pytest.raises(StudyError, match=f"^x, line 1: lists and mappings are nested more than {DEEPEST} deep"):
        parse_yaml(unit * 5000, name="x")
    closed = "[" * DEEPEST + "]" * DEEPEST
    assert repr(parse_yaml(closed, name="x")) == closed


def test_a_mapping_is_asked_for(tmp_path: Path) -> None:
    assert parse_mapping("a: 1", name="x") == {"a": 1}
    for content, got in {"- 1": "a list", "words": "text", "7": "a number", "true": "true or false"}.items():
        assert refused(read_mapping, tmp_path, content) == f"FILE: expected a mapping (name: value), got {got}."
    for content in ("", "\n", "# a comment alone\n", "~", "---\n"):
        assert refused(read_mapping, tmp_path, content) == (
            "FILE: empty, where a mapping was expected. Restore it, or make it again."
        )
    (tmp_path / "x").write_text("- 1")
    assert read_yaml(tmp_path / "x") == [1]


@pytest.mark.parametrize("read", [read_text, read_yaml, read_mapping, read_json])
def test_what_is_no_text_in_utf_8(read: Any, tmp_path: Path) -> None:
    text = '{"caf\xe9": 1}'
    assert refused(read, tmp_path, text.encode("latin-1")) == (
        "FILE: not UTF-8 (invalid continuation byte at byte 5): save it as UTF-8."
    )
    assert refused(read, tmp_path, text.encode("utf-16")) == (
        "FILE: not UTF-8 (invalid start byte at byte 0): save it as UTF-8."
    )
    for content in ('{"a": 1}'.encode("utf-16-le"), b"\0" * 100, b'{"a": 1}\0\0'):
        assert refused(read, tmp_path, content) == (
            "FILE: not UTF-8 text, as there are NUL bytes in it: save it as UTF-8, or if it is damaged, restore it."
        )
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "x").write_bytes(text.encode(encoding))
        assert read(tmp_path / "x") in ({"caf\xe9": 1}, text)


@pytest.mark.parametrize("read", [read_text, read_yaml, read_mapping, read_json])
def test_what_is_no_readable_file(read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(name: str) -> str:
        with pytest.raises(StudyError) as caught:
            read(tmp_path / name)
        return str(caught.value).replace(str(tmp_path), "DIR")

    (tmp_path / "directory").mkdir()
    (tmp_path / "dangling").symlink_to("gone.yaml")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").write_text("a: 1")
    assert message("absent") == "DIR/absent: no such file or directory. Check its name, or make it."
    assert message("directory") == "DIR/directory: a directory, where a file belongs. Move it away, or name a file."
    assert message("dangling") == (
        "DIR/dangling: a link to gone.yaml, which does not exist. Mend the link, or remove it."
    )
    assert message("circle") == (
        "DIR/circle: its symbolic links lead in a circle. Remove one of them, or name another place."
    )
    assert message("file/below") == "DIR/file: a file, where a directory belongs. Move it away, or name a directory."

    def forbid(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbid)
    assert message("file") == (
        "DIR/file: no permission to read or write it. Change its permissions (see ls -l), or name another place."
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            '{"a": 1, "a": 2}',
            "FILE: not a valid JSON file (the key 'a' is given twice). It may be truncated: make it again.",
        ),
        (
            '{"b": [{"a": 1, "a": 1}]}',
            "FILE: not a valid JSON file (the key 'a' is given twice). It may be truncated: make it again.",
        ),
        ('{"a": NaN}', "FILE: not a valid JSON file (NaN is not a finite number). It may be truncated: make it again."),
        (
            '{"a": -Infinity}',
            "FILE: not a valid JSON file (-Infinity is not a finite number). It may be truncated: make it again.",
        ),
        (
            '{"a": 1e999}',
            "FILE: not a valid JSON file (1e999 is not a finite number). It may be truncated: make it again.",
        ),
        (
            '{"a": ',
            "FILE: not a valid JSON file (Expecting value: line 1 column 7 (char 6)). It may be truncated: make "
            "it again.",
        ),
        ('{"a":' * 100_000, "FILE: lists and objects are nested too deeply in it. Make it again."),
        ("[" * 100_000 + "]" * 100_000, "FILE: lists and objects are nested too deeply in it. Make it again."),
        ("[]", "FILE: expected a JSON object, got a list. Make it again."),
        ("null", "FILE: expected a JSON object, got null. Make it again."),
        ("", "FILE: empty, where a JSON object was expected. Restore it, or make it again."),
        (" \n", "FILE: empty, where a JSON object was expected. Restore it, or make it again."),
        (
            '{\n<<<<<<< HEAD\n"a": 1\n',
            "FILE, line 2: holds conflict markers of an unfinished merge (<<<<<<<): resolve it.",
        ),
    ],
)
def test_json_that_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    assert refused(read_json, tmp_path, content) == problem


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(content)
        for read in (read_yaml, read_mapping, read_json):
            try:
                read(path)
            except StudyError as error:
                assert str(error).startswith(os.fspath(path))
