"""Fill the three roles with faces: embedded ones, or real ones from a path. Pin and check their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import yaml
from rich.console import RenderableType
from rich.progress import Progress

from facespec.data.archives import refuse_missing
from facespec.data.chunks import FaceImport
from facespec.data.embedded import production
from facespec.data.embedded.roles import draw_role
from facespec.data.faceset import HEADER_FILE, FaceSet, write_faceset
from facespec.data.sources import read_faces
from facespec.stages.dvc_files import digest_below, digest_listing, digest_output, list_outputs, read_lock
from facespec.stages.faces_check import check_faces
from facespec.stages.faces_info import describe_faces
from facespec.stages.faces_record import (
    EMBEDDED,
    Entry,
    digest_settings,
    digest_source,
    find_damage,
    read_record,
    resolve_source,
    write_entry,
)
from facespec.stages.progress import progress_bar
from facespec.study.artefacts import digest_file
from facespec.study.documents import read_mapping
from facespec.study.errors import StudyError
from facespec.study.params import Data, Params, read_params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.storage import write_bytes
from facespec.study.vocabulary import ROLES, Role

PIN = "data.dvc"
PIN_MEANING = "The bytes of the default faces, as `facespec data check` compares them; dvc.yaml makes them."
DAMAGED = "damaged faces"
Report = Callable[[str], None]


def build(paths: Paths, block: Data, *, sources: Mapping[str, str], workers: int) -> None:
    """Fill every role anew; `sources` (role -> path) overrules the sources in `params.yaml`, and is remembered.

    A relative path in `sources` starts at the working directory, one in ``params.yaml`` at the directory of that file.
    Raises `StudyError`, before anything is made, if that would replace real faces of which no record tells the source.
    """
    entries = {role: read_record(paths).get(role.value) for role in ROLES}
    for role, entry in entries.items():
        if entry is None and role.value not in sources:
            _refuse_unrecorded(paths, role, source=_choose_source(paths, block, role, entry))
    sources_by_role = {
        role: resolve_source(sources[role.value], Path.cwd())
        if role.value in sources
        else _choose_source(paths, block, role, entry)
        for role, entry in entries.items()
    }
    for source in sources_by_role.values():
        if source != EMBEDDED:
            refuse_missing(Path(source))  # before the other roles are made
    for role, entry in entries.items():
        from_command_line = role.value in sources or bool(entry and entry.given)
        _fill(paths, block, role, source=sources_by_role[role], given=from_command_line, workers=workers)


def run(paths: Paths, params: Params, *, role: Role, workers: int) -> None:
    """Fill one role, unless its faces are those that would be made; refuse what later stages would refuse.

    The check reads parameters of other stages, and changes nothing: the faces do not depend on them.
    """
    build_missing(paths, params.data, roles=[role], workers=workers, report=print)
    check_faces(paths, params, roles=[role], report=print)


def build_missing(
    paths: Paths, block: Data, *, workers: int, roles: Iterable[Role] = ROLES, report: Report = lambda line: None
) -> None:
    """Fill the roles that are absent, damaged, or made from other parameters, source or renderer; keep the others.

    `report` is told what is made again and why. Real faces are replaced only by what the same source holds now, or by
    what ``params.yaml`` now asks for: raises `StudyError` for real faces that are damaged, or whose record is lost.
    """
    for role in roles:
        entry = read_record(paths).get(role.value)
        if entry is None and _is_locked(paths, role):
            report(f"{paths.faces(role)}: not recorded here, and kept, as dvc.lock records these faces.")
            continue
        source = _choose_source(paths, block, role, entry)
        reason = _find_reason(paths, block, role, source=source, entry=entry)
        if reason is not None:
            if reason:
                report(f"{reason} The {role.value} faces are made again.")
            _fill(paths, block, role, source=source, given=bool(entry and entry.given), workers=workers)


def _is_locked(paths: Paths, role: Role) -> bool:
    """Whether real faces are what ``dvc.lock`` records, as after `dvc pull`; embedded ones are made in a minute."""
    if _read_source(paths.faces(role)) in (production.SOURCE, DAMAGED):
        return False
    recorded = {output.path: output.md5 for output in list_outputs(read_lock(paths.root))}
    return recorded.get(f"data/{role.value}") == digest_output(paths.faces(role))


def _choose_source(paths: Paths, block: Data, role: Role, entry: Entry | None) -> str:
    """The source that the command line once named, else that of params.yaml."""
    if entry and entry.given:
        return entry.source
    return resolve_source(getattr(block, role.value).source, paths.root)


def _find_reason(paths: Paths, block: Data, role: Role, *, source: str, entry: Entry | None) -> str | None:
    """Why the faces of `role` must be made; empty where that needs no words, None where they need not."""
    directory = paths.faces(role)
    if not directory.is_dir() or not any(directory.iterdir()):
        return ""
    if entry is None:
        _refuse_unrecorded(paths, role, source=source)
        return f"{directory}: not recorded here."
    if (entry.source, entry.settings) != (source, digest_settings(block, role, source)):
        return ""
    fingerprint = digest_source(source)
    if fingerprint and fingerprint != entry.fingerprint:
        return f"{source}: changed since its faces were read."
    damage = find_damage(paths, role, entry)
    if damage and source != EMBEDDED:
        raise StudyError(
            f"{damage} These are real faces, which are not replaced unasked: remove {directory}, and the same command "
            f"reads them again from {source}."
        )
    return damage or None


def _refuse_unrecorded(paths: Paths, role: Role, *, source: str) -> None:
    """Raise `StudyError` if faces are there that may be real: of embedded ones nothing can be lost."""
    directory = paths.faces(role)
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    present = _read_source(directory)
    if source != EMBEDDED or present != production.SOURCE:
        raise StudyError(
            f"{directory}: nothing records where these faces ({present}) came from, and they are not replaced unasked. "
            f"`facespec data build --{role.value} PATH` reads them again; without the directory, params.yaml decides."
        )


def _read_source(directory: Path) -> str:
    """What the faces in `directory` say about themselves."""
    try:
        return FaceSet.open(directory).source
    except (StudyError, OSError):
        return DAMAGED


def _fill(paths: Paths, block: Data, role: Role, *, source: str, given: bool, workers: int) -> None:
    fingerprint = digest_source(source)  # before: what changes meanwhile is noticed next time
    with progress_bar() as bar:
        faces = _faces(block, role, source, workers=workers, report=_reporting(bar, f"{role.value} faces"))
        write_faceset(paths.faces(role), faces.chunks, faces.description)
    faceset = digest_file(paths.faces(role) / HEADER_FILE)
    write_entry(paths, role, Entry(source, given, digest_settings(block, role, source), fingerprint, faceset))


def _reporting(bar: Progress, name: str) -> Callable[[int, int], None]:
    task = bar.add_task(name, total=None, numbers="")
    return lambda done, total: bar.update(task, completed=done, total=total)


def _faces(block: Data, role: Role, source: str, *, workers: int, report: Callable[[int, int], None]) -> FaceImport:
    if source == EMBEDDED:
        stimuli = draw_role(role, block, generator(block.seed, "faces", role.value))
        return production.import_embedded(
            stimuli, size=block.size, channels=block.channels, workers=workers, report=report
        )
    # VoxCeleb1 keeps the stream that earlier versions drew its videos from
    streams = generator(block.seed, "videos"), generator(block.seed, "groups", role.value)
    return read_faces(Path(source), role, block, generators=streams, report=report)


def pin(paths: Paths) -> None:
    """Write ``data.dvc``, which pins the bytes of ``data/``: DVC's digest of the directory, and every file's own."""
    files = digest_below(_find_data(paths))
    content = {"desc": PIN_MEANING, "meta": {"md5": digest_listing(files), "files": files}}
    write_bytes(paths.root / PIN, yaml.safe_dump(content, sort_keys=False, width=120).encode())


def list_differences(paths: Paths) -> list[str]:
    """What differs between ``data/`` and ``data.dvc``, one sentence per file; empty: the bytes are the pinned ones."""
    pinned = _read_pins(paths)
    files = digest_below(_find_data(paths))
    lines = [f"{name}: absent" for name in sorted(pinned.keys() - files.keys())]
    lines += [f"{name}: not pinned" for name in sorted(files.keys() - pinned.keys())]
    lines += [f"{name}: other bytes" for name in sorted(pinned.keys() & files.keys()) if pinned[name] != files[name]]
    return lines


def _read_pins(paths: Paths) -> dict[str, str]:
    """The digest of every file that ``data.dvc`` pins."""
    path = paths.root / PIN
    if not path.exists():
        raise StudyError(f"{path}: no such file. `facespec data pin` writes it from data/.")
    try:
        pinned = read_mapping(path)["meta"]
        files = dict(pinned["files"])
        if not all(isinstance(text, str) for text in (*files, *files.values())):
            raise TypeError
        consistent = digest_listing(files) == pinned["md5"]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise StudyError(f"{path}: does not pin data/. `facespec data pin` writes it from data/.") from None
    if not consistent:
        raise StudyError(f"{path}: its digest is not that of its files. `facespec data pin` writes it from data/.")
    return files


def _find_data(paths: Paths) -> Path:
    if not paths.data.is_dir():
        raise StudyError(f"{paths.data}: no such directory. `facespec data build` makes it.")
    return paths.data


def open_faces(paths: Paths) -> list[FaceSet]:
    """The FaceSets of all three roles."""
    return [FaceSet.open(paths.faces(role), role=role) for role in ROLES]


def show(paths: Paths, to: Path) -> None:
    """Draw a contact sheet of all three roles into the PNG file `to`; the same data give the same picture."""
    # drawing libraries take a second to load, and building faces does not need them
    from facespec.figures.style import save_png
    from facespec.stages.faces_show import make_sheet

    study, faces = read_params(paths.params), dict(zip(ROLES, open_faces(paths), strict=True))
    save_png(make_sheet(faces, study.data, study.regions.face), to)


def info(paths: Paths) -> list[RenderableType]:
    """What every role says about itself, for the terminal."""
    return [part for faces in open_faces(paths) for part in describe_faces(faces)]
