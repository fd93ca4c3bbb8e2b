"""Fill the three roles with faces: embedded ones, or real ones from a path. Pin and check their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import RenderableType
from rich.progress import Progress

from facespec.data import fer2013, kdef, voxceleb
from facespec.data.chunks import Import
from facespec.data.embedded import production
from facespec.data.embedded.roles import draw
from facespec.data.faceset import FaceSet, write_faceset
from facespec.data.intake import Wanted
from facespec.stages.faces_info import described
from facespec.stages.progress import progress_bar
from facespec.study.errors import StudyError
from facespec.study.params import Data, read_params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import read_json, write_bytes, write_json
from facespec.study.vocabulary import ROLES, Role

EMBEDDED = "embedded"
CODE = Path(production.__file__).parent
Report = Callable[[int, int], None]


def build(paths: Paths, block: Data, *, sources: Mapping[str, str], workers: int) -> None:
    """Fill every role anew; `sources` (role -> path) overrules the sources in `params.yaml`, and is remembered."""
    record = _read_record(paths)
    for role in ROLES:
        source = sources.get(role.value, getattr(block, role.value).source)
        _fill(paths, block, role, source=source, workers=workers)
        record[role.value] = {"made_from": _made_from(block, role, source), "overruled_by": sources.get(role.value)}
        write_json(_record(paths), record)


def build_missing(paths: Paths, block: Data, *, workers: int) -> None:
    """Fill the roles that are absent or were made from other parameters, source or renderer; keep the others."""
    record = _read_record(paths)
    for role in ROLES:
        entry = record.get(role.value, {})
        source = entry.get("overruled_by") or getattr(block, role.value).source
        made_from = _made_from(block, role, source)
        if (paths.faces(role) / "faceset.json").is_file() and entry.get("made_from") == made_from:
            continue
        _fill(paths, block, role, source=source, workers=workers)
        record[role.value] = {"made_from": made_from, "overruled_by": entry.get("overruled_by")}
        write_json(_record(paths), record)


def _record(paths: Paths) -> Path:
    # beside the data, not in it: the bytes of data/ must not depend on where its sources lay
    return paths.root / ".dvc" / "tmp" / "faces.json"


def _read_record(paths: Paths) -> dict[str, Any]:
    return read_json(_record(paths)) if _record(paths).is_file() else {}


def _made_from(block: Data, role: Role, source: str) -> str:
    """A digest of everything that decides the bytes of a role: parameters, and the renderer's code or the source."""
    settings = block.model_dump(include={"seed", "size", "channels", "tolerated", role.value})
    digest = hashlib.sha256(repr((settings, source)).encode())
    if source == EMBEDDED:
        for file in sorted(CODE.glob("*.py")):
            digest.update(file.read_bytes())
    elif Path(source).is_file():
        stat = Path(source).stat()
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _fill(paths: Paths, block: Data, role: Role, *, source: str, workers: int) -> None:
    with progress_bar() as bar:
        faces = _faces(block, role, source, workers=workers, report=_reporting(bar, f"{role.value} faces"))
        write_faceset(paths.faces(role), faces.chunks, faces.description)


def _reporting(bar: Progress, name: str) -> Report:
    task = bar.add_task(name, total=None, numbers="")
    return lambda done, total: bar.update(task, completed=done, total=total)


def _faces(block: Data, role: Role, source: str, *, workers: int, report: Report) -> Import:
    if source == EMBEDDED:
        stimuli = draw(role, block, generator(block.seed, "faces", role.value))
        return production.imported(stimuli, size=block.size, channels=block.channels, workers=workers, report=report)
    wanted = Wanted(block.size, block.channels, block.tolerated)
    path = Path(source).expanduser()
    if role is Role.EXPRESSION:
        return fer2013.read(path, wanted, report=report)
    if role is Role.PROBE:
        return kdef.read(path, wanted, report=report)
    stream = generator(block.seed, "videos")
    return voxceleb.read(path, wanted, test=block.identity.test, generator=stream, report=report)


def pin(paths: Paths) -> None:
    """Write ``data.dvc``: DVC's digest of the directory, and, as metadata, every file's own."""
    files = read_digests(paths)
    sizes = [(paths.data / name).stat().st_size for name in files]
    out = {"md5": _directory_digest(files), "size": sum(sizes), "nfiles": len(files), "hash": "md5", "path": "data"}
    content = {"outs": [out], "meta": {"files": files}}
    write_bytes(paths.root / "data.dvc", yaml.safe_dump(content, sort_keys=False).encode())


def differences(paths: Paths) -> list[str]:
    """What differs between ``data/`` and ``data.dvc``, one sentence per file; empty: the bytes are the pinned ones."""
    pinned_path = paths.root / "data.dvc"
    if not pinned_path.is_file():
        raise StudyError(f"{pinned_path}: no such file. `facespec data pin` writes it from data/.")
    content = yaml.safe_load(pinned_path.read_text(encoding="utf-8"))
    pinned, found = content.get("meta", {}).get("files", {}), read_digests(paths)
    lines = [f"{name}: absent" for name in sorted(pinned.keys() - found.keys())]
    lines += [f"{name}: not pinned" for name in sorted(found.keys() - pinned.keys())]
    lines += [f"{name}: other bytes" for name in sorted(pinned.keys() & found.keys()) if pinned[name] != found[name]]
    if not lines and content["outs"][0]["md5"] != _directory_digest(found):
        lines = ["data.dvc contradicts itself: its directory digest is not that of its files; run `facespec data pin`."]
    return lines


def read_digests(paths: Paths) -> dict[str, str]:
    """MD5 of every file below ``data/``, by its path there. MD5 because that is what DVC pins with."""
    if not paths.data.is_dir():
        raise StudyError(f"{paths.data}: no such directory. `facespec data build` makes it.")
    files = sorted(path for path in paths.data.rglob("*") if path.is_file())
    digests = {}
    for path in files:
        with path.open("rb") as file:
            digests[path.relative_to(paths.data).as_posix()] = hashlib.file_digest(file, "md5").hexdigest()
    return digests


def _directory_digest(files: Mapping[str, str]) -> str:
    """DVC's digest of a directory: the MD5 of its files' digests and paths as JSON, with the suffix ``.dir``."""
    rows = ", ".join(f'{{"md5": "{digest}", "relpath": "{name}"}}' for name, digest in sorted(files.items()))
    return hashlib.md5(f"[{rows}]".encode()).hexdigest() + ".dir"


def opened(paths: Paths) -> list[FaceSet]:
    """The FaceSets of all three roles."""
    return [FaceSet.open(paths.faces(role)) for role in ROLES]


def show(paths: Paths, to: Path) -> None:
    """Draw a contact sheet of all three roles into the PNG file `to`; the same data give the same picture."""
    # drawing libraries take a second to load, and building faces does not need them
    from facespec.figures.style import save_png
    from facespec.stages.faces_show import sheet

    save_png(sheet(dict(zip(ROLES, opened(paths), strict=True)), read_params(paths.params).data), to)


def info(paths: Paths) -> list[RenderableType]:
    """What every role says about itself, for the terminal: see `faces_info.described`."""
    return [part for faces in opened(paths) for part in described(faces)]
