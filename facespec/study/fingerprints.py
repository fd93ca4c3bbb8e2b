"""Which code does a stage run? One digest per stage, of the parsed definitions that it can reach.

Comments, docstrings, annotations, formatting, texts of errors, and the file in which a definition stands do not count:
they compute nothing. Two versions of a stage with equal fingerprints compute the same from the same inputs, so that
results of one are results of the other. Versions of other packages do not count (``requirements.lock`` pins them).
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from facespec.study.code_path import get_code_path

PACKAGE = Path(__file__).resolve().parents[1]
# A stage receives all parameters and reads some blocks of them: only the classes of these count as reached.
PARAMETERS = ("facespec.study.params", "Params")
Key = tuple[str, str]  # module, name


@cache
def fingerprint_stage(name: str) -> str:
    """Digest the code that a stage runs.

    Parameters
    ----------
    name : str
        A module of `facespec.stages` with a function ``run``.

    Returns
    -------
    str
        64 hexadecimal digits; equal on every machine and every supported version of Python.

    Examples
    --------
    >>> len(fingerprint_stage("checks"))
    64
    """
    module = f"facespec.stages.{name}"
    return _fingerprint([(module, "run"), *((PARAMETERS[0], block) for block in _list_blocks(module))])


def fingerprint_functions(*functions: Callable[..., Any]) -> str:
    """Digest the code that functions of this package run."""
    return _fingerprint([(function.__module__, function.__name__) for function in functions])


def _fingerprint(pending: list[Key]) -> str:
    """Digest the definitions that can be reached from those in `pending`, and the files that these name."""
    reached: dict[Key, _Definition] = {}
    while pending:
        key = pending.pop()
        if key not in reached and key != PARAMETERS:
            reached[key] = _resolve(key)
            pending += reached[key].references
    digest = hashlib.sha256()
    # sorted by name and content, not by module: moving a definition changes nothing
    for line in sorted(line for definition in reached.values() for line in definition.lines):
        digest.update(line.encode())
    for file in sorted({file for definition in reached.values() for file in definition.files}):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def identify_computation(stage: str) -> str:
    """The fingerprint of a stage, and the code path on which this process runs: what a resumed run must share."""
    return f"{fingerprint_stage(stage)} {get_code_path()!r}"


@dataclass(frozen=True)
class _Module:
    """The top level of one file: its definitions by name, what it imports under which name, and other statements."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Key] = field(default_factory=dict)  # name -> module and name there; no name: the module itself
    effects: list[ast.stmt] = field(default_factory=list)  # run whenever the module is imported


@cache
def _parse(module: str) -> _Module:
    """Read a module of the package."""
    parsed = _Module()
    for statement in ast.parse(_find_file(module).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            parsed.imports.update(_read_imports(statement))
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            parsed.definitions.setdefault(statement.name, []).append(statement)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for node in (node for target in targets for node in ast.walk(target)):
                if isinstance(node, ast.Name):
                    parsed.definitions.setdefault(node.id, []).append(statement)
        elif not _is_docstring(statement):
            parsed.effects.append(statement)
    return parsed


def _find_file(module: str) -> Path:
    stem = PACKAGE.parent.joinpath(*module.split("."))
    return stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")


def _is_module(name: str) -> bool:
    return name.split(".")[0] == "facespec" and _find_file(name).is_file()


def _read_imports(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Key]]:
    for alias in statement.names:
        if isinstance(statement, ast.Import):
            yield (
                alias.asname or alias.name.split(".")[0],
                (alias.name if alias.asname else alias.name.split(".")[0], ""),
            )
        else:
            inner = f"{statement.module}.{alias.name}"
            key = (inner, "") if _is_module(inner) else (str(statement.module), alias.name)
            yield alias.asname or alias.name, key


@dataclass(frozen=True)
class _Definition:
    """What defines a name: its statements as text, the names that they refer to, and the files that they name."""

    lines: list[str]
    references: list[Key]
    files: list[Path] = field(default_factory=list)


@cache  # most definitions are reached by many stages
def _resolve(key: Key) -> _Definition:
    """The definition of a name; for names of other packages a mere import.

    No name: the whole module. Statements that run on import belong to each name of their module.
    """
    owner, name = key
    if not _is_module(owner):
        return _Definition([f"{name} {_dump(ast.Import([ast.alias(f'{owner}.{name}')]))}"], [])
    module = _parse(owner)
    if name in module.imports and name not in module.definitions:
        return _Definition([], [module.imports[name]])
    if name:
        statements = module.definitions.get(name, [])
    else:
        statements = [statement for definition in module.definitions.values() for statement in definition]
    references = [*_list_references(module, owner, statements), *_list_references(module, owner, module.effects)]
    statements = [*statements, *module.effects]
    lines = [f"{name} {_dump(statement)}" for statement in statements]
    return _Definition(lines, references, list(_list_files(owner, statements)))


def _list_references(module: _Module, owner: str, statements: list[ast.stmt]) -> Iterator[Key]:
    nodes = [node for statement in statements for node in ast.walk(statement)]
    imports = dict(module.imports)
    for node in nodes:  # functions may import, too
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(_read_imports(node))
    qualified = set()
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            imported, inner = imports.get(node.value.id, ("", "x"))
            if imported and not inner and node.value.id not in module.definitions:
                qualified.add(id(node.value))
                yield imported, node.attr
    for node in nodes:
        if isinstance(node, ast.Name) and id(node) not in qualified:
            if node.id in module.definitions:
                yield owner, node.id
            elif node.id in imports:
                yield imports[node.id]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in module.definitions:
            yield owner, node.value  # an annotation, or a name that is looked up


def _list_blocks(module: str) -> list[str]:
    """The classes of the parameter blocks that a stage reads, as ``params.name``."""
    (container,) = _parse(PARAMETERS[0]).definitions[PARAMETERS[1]]
    assert isinstance(container, ast.ClassDef)
    blocks = {
        field.target.id: [node.id for node in ast.walk(field.annotation) if isinstance(node, ast.Name)]
        for field in container.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
    tree = ast.parse(_find_file(module).read_text(encoding="utf-8"))
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    }
    return sorted({name for block in read & blocks.keys() for name in blocks[block]})


def _list_files(module: str, statements: list[ast.stmt]) -> Iterator[Path]:
    """Files beside a module, other than code, that its statements name, such as tables of published numbers."""
    directory = _find_file(module).parent
    for node in (node for statement in statements for node in ast.walk(statement)):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if "." in text.strip(".") and text.isprintable() and len(text) < 100 and (directory / text).is_file():
            yield directory / text


def _is_docstring(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _dump(node: Any, inside: type = ast.Module) -> str:
    """What code says, without positions, docstrings, and what only describes types.

    Annotations stay in the bodies of classes, where dataclasses and pydantic read them. Unlike `ast.dump`, equal for
    all versions of Python.
    """
    if isinstance(node, list):
        return "[" + ",".join(_dump(item, inside) for item in node if not _is_docstring(item)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Raise):  # what an error says is no result
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return f"Raise({_dump(raised, inside)})"
    if isinstance(node, ast.AnnAssign) and inside is not ast.ClassDef:
        return _dump(ast.Assign([node.target], node.value), inside) if node.value else ""
    skipped = {"ctx", "kind", "type_comment", "type_params", "returns"}
    if isinstance(node, ast.arg):
        skipped.add("annotation")
    inner = type(node) if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Lambda) else inside
    fields = ((name, value) for name, value in ast.iter_fields(node) if name not in skipped and value not in (None, []))
    return f"{type(node).__name__}({','.join(f'{name}={_dump(value, inner)}' for name, value in fields)})"
