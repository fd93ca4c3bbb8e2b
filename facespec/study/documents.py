"""YAML and JSON documents, read strictly: one dialect of YAML, no repeated keys, a sentence for what cannot be read.

The dialect is the one in which DVC reads ``params.yaml``, ``dvc.yaml`` and ``dvc.lock``: YAML 1.2 as ruamel.yaml reads
it, where ``1e-5`` is a number, ``010`` is ten and ``yes`` is a word.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.reader import ReaderError

from facespec.study.errors import StudyError, explain_os_error

DEEPEST = 50  # mappings and lists within each other; a study's own documents have seven
MARKER = re.compile(r"^(<{7}|\|{7}|={7}|>{7})( .*)?\r?$", re.MULTILINE)
REPEATED_KEY = re.compile(r'found duplicate key "(.*?)" with value "', re.DOTALL)


def read_text(path: Path) -> str:
    """The text of the UTF-8 file `path`; raises `StudyError` where there is none, saying why."""
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


def read_yaml(path: Path) -> Any:
    """The value in the YAML file `path`; raises `StudyError` as `parse_yaml` and `read_text` do."""
    return parse_yaml(read_text(path), name=str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file `path`; raises `StudyError` also for an empty file or another kind of value."""
    return parse_mapping(read_text(path), name=str(path))


def parse_yaml(text: str, *, name: str) -> Any:
    """The value of the YAML document `text`, None if it is empty; `name` stands for it in messages.

    Raises `StudyError`, naming the line, for what is not valid YAML, a key that is given twice, an alias, a tag, lists
    and mappings nested too deeply, and conflict markers.
    """
    _check_merged(text, name)
    try:
        _check_events(text, name)
        return YAML(typ="safe").load(text)
    except StudyError:
        raise
    except MarkedYAMLError as error:
        _refuse_yaml(error, name)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise StudyError(
            f"{name}, line {line}: the character {chr(error.character)!r} cannot be read: remove it."
        ) from None
    except Exception as error:  # numbers and dates that do not exist raise nearly anything
        raise StudyError(f"{name}: not valid YAML: {_join_lines(error)}.") from error


def parse_mapping(text: str, *, name: str) -> dict[str, Any]:
    """As `parse_yaml`, of a document that must be a mapping."""
    values = parse_yaml(text, name=name)
    if values is None:
        raise StudyError(f"{name}: empty, where a mapping was expected. Restore it, or make it again.")
    if not isinstance(values, dict):
        raise StudyError(f"{name}: expected a mapping (name: value), got {_name_kind(values)}.")
    return values


def read_json(path: Path) -> dict[str, Any]:
    """The object in the JSON file `path`.

    Raises `StudyError` for what is not valid JSON (RFC 8259, so no NaN and no Infinity), a key that is given twice,
    objects nested too deeply, an empty file, conflict markers, and a value of another kind.
    """
    text = read_text(path)
    _check_merged(text, str(path))
    if not text.strip():
        raise StudyError(f"{path}: empty, where a JSON object was expected. Restore it, or make it again.")
    try:
        values = json.loads(
            text, object_pairs_hook=_collect_keys, parse_float=_parse_number, parse_constant=_parse_number
        )
    except RecursionError:
        raise StudyError(f"{path}: lists and objects are nested too deeply in it. Make it again.") from None
    except ValueError as error:
        raise StudyError(f"{path}: not a valid JSON file ({error}). It may be truncated: make it again.") from error
    if not isinstance(values, dict):
        raise StudyError(f"{path}: expected a JSON object, got {_name_kind(values)}. Make it again.")
    return values


def _check_merged(text: str, name: str) -> None:
    if found := MARKER.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise StudyError(
            f"{name}, line {line}: holds conflict markers of an unfinished merge ({found[1]}): resolve it."
        )


def _check_events(text: str, name: str) -> None:
    """Refuse what makes a short document long or deep, before anything is made of it."""
    depth = 0
    for event in YAML(typ="safe").parse(text):
        place = f"{name}, line {event.start_mark.line + 1}"
        if isinstance(event, AliasEvent):
            raise StudyError(f"{place}: *{event.anchor} stands for another part of the document: write that out.")
        if tag := getattr(event, "tag", None):
            raise StudyError(f"{place}: the tag {tag} is not read: write a plain value.")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            raise StudyError(f"{place}: lists and mappings are nested more than {DEEPEST} deep: use fewer.")


def _refuse_yaml(error: MarkedYAMLError, name: str) -> NoReturn:
    mark = error.problem_mark or error.context_mark
    line = f"line {mark.line + 1}" if mark else "somewhere"
    if repeated := REPEATED_KEY.match(problem := str(error.problem or error.context)):
        raise StudyError(f"{name}, {line}: the key {repeated[1]!r} is given twice: keep one of them.") from None
    raise StudyError(f"{name}: not valid YAML: {_join_lines(problem)} in {line}.") from None


def _collect_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
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


def _name_kind(value: Any) -> str:
    kinds = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def _join_lines(problem: object) -> str:
    return " ".join(str(problem).split()).rstrip(".")
