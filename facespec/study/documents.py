"""How are YAML and JSON read strictly? One dialect of YAML, no repeated keys, one sentence for every error.

The dialect is the one in which DVC reads ``params.yaml``, ``dvc.yaml`` and ``dvc.lock``: YAML 1.2 as ruamel.yaml reads
it. There, ``1e-5`` is a number, ``010`` is ten, and ``yes`` is a text.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.reader import ReaderError

from facespec.study.errors import StudyError, explain_os_error

MAX_DEPTH = 50  # nested mappings and lists; facespec's own documents have 7
CONFLICT_MARKER = re.compile(r"^(<{7}|\|{7}|={7}|>{7})( .*)?\r?$", re.MULTILINE)
REPEATED_KEY = re.compile(r'found duplicate key "(.*?)" with value "', re.DOTALL)


def read_text(path: Path) -> str:
    """Read the UTF-8 file `path`; raises `StudyError` if it cannot be read or is not text."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StudyError(explain_os_error(error, path)) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8.") from None
    if "\0" in text:
        raise StudyError(
            f"{path}: not UTF-8 text, as there are NUL bytes in it: save it as UTF-8, or if it is damaged, restore it."
        )
    return text


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the mapping in the YAML file `path`; raises `StudyError` as `read_text` and `parse_mapping` do."""
    return parse_mapping(read_text(path), name=str(path))


def parse_mapping(text: str, *, name: str) -> dict[str, Any]:
    """Parse a YAML document as `parse_yaml` does; raises `StudyError` also if it is empty or not a mapping."""
    values = parse_yaml(text, name=name)
    if values is None:
        raise StudyError(f"{name}: empty, where a mapping was expected. Restore it, or make it again.")
    if not isinstance(values, dict):
        raise StudyError(f"{name}: expected a mapping (name: value), got {_describe_type(values)}.")
    return values


def parse_yaml(text: str, *, name: str) -> Any:
    """Parse the YAML document `text`, which messages call `name`; the value of an empty document is None.

    Raises `StudyError`, naming the line, for invalid YAML, a repeated key, an alias, a tag, lists and mappings nested
    more than `MAX_DEPTH` deep, and conflict markers.
    """
    _refuse_conflicts(text, name)
    try:
        _refuse_unsafe_events(text, name)
        return YAML(typ="safe").load(text)
    except StudyError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        location = f"line {mark.line + 1}" if mark else "somewhere"
        problem = str(error.problem or error.context)
        if repeated := REPEATED_KEY.match(problem):
            message = f"{name}, {location}: the key {repeated[1]!r} is given twice: keep one of them."
            raise StudyError(message) from None
        raise StudyError(f"{name}: not valid YAML: {_join_lines(problem)} in {location}.") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise StudyError(
            f"{name}, line {line}: the character {chr(error.character)!r} cannot be read: remove it."
        ) from None
    except Exception as error:  # impossible numbers and dates raise many types of errors
        raise StudyError(f"{name}: not valid YAML: {_join_lines(error)}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in the JSON file `path`.

    Raises `StudyError`, naming the file, for invalid JSON (RFC 8259, so no NaN and no Infinity), a repeated key, deep
    nesting, an empty file, conflict markers, and a value other than an object.
    """
    text = read_text(path)
    _refuse_conflicts(text, str(path))
    if not text.strip():
        raise StudyError(f"{path}: empty, where a JSON object was expected. Restore it, or make it again.")
    try:
        values = json.loads(
            text, object_pairs_hook=_make_object, parse_float=_parse_number, parse_constant=_parse_number
        )
    except RecursionError:
        raise StudyError(f"{path}: lists and objects are nested too deeply in it. Make it again.") from None
    except ValueError as error:
        raise StudyError(f"{path}: not a valid JSON file ({error}). It may be truncated: make it again.") from error
    if not isinstance(values, dict):
        raise StudyError(f"{path}: expected a JSON object, got {_describe_type(values)}. Make it again.")
    return values


def _refuse_conflicts(text: str, name: str) -> None:
    if marker := CONFLICT_MARKER.search(text):
        line = text.count("\n", 0, marker.start()) + 1
        raise StudyError(
            f"{name}, line {line}: holds conflict markers of an unfinished merge ({marker[1]}): resolve it."
        )


def _refuse_unsafe_events(text: str, name: str) -> None:
    """Refuse aliases, tags and deep nesting, which can make a short document large, before any value is made."""
    depth = 0
    for event in YAML(typ="safe").parse(text):
        location = f"{name}, line {event.start_mark.line + 1}"
        if isinstance(event, AliasEvent):
            raise StudyError(f"{location}: *{event.anchor} stands for another part of the document: write that out.")
        if tag := getattr(event, "tag", None):
            raise StudyError(f"{location}: the tag {tag} is not read: write a plain value.")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise StudyError(f"{location}: lists and mappings are nested more than {MAX_DEPTH} deep: use fewer.")


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r} is given twice")
        values[key] = value
    return values


def _parse_number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return number


def _describe_type(value: Any) -> str:
    names = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _join_lines(problem: object) -> str:
    return " ".join(str(problem).split()).rstrip(".")
