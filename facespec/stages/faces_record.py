"""Where the faces of every role came from: the record that keeps real faces from being replaced.

It lies in ``.facespec/faces.json``, beside the faces and not among them: the bytes of ``data/`` must not depend on
where their sources lay.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from facespec.data.embedded import production
from facespec.data.embedded.roles import draw_role
from facespec.data.faceset import HEADER_FILE, REMEDY, FaceSet
from facespec.data.unpacking import check_count
from facespec.data.user_faces import list_pictures
from facespec.study.artefacts import digest_file, read_document, write_document
from facespec.study.errors import StudyError
from facespec.study.fingerprints import fingerprint_functions
from facespec.study.params import Data, RealFaces
from facespec.study.paths import Paths
from facespec.study.vocabulary import Role

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Entry:
    """How the faces of one role were made.

    `source` is ``embedded`` or an absolute path, `given` whether the command line named it instead of params.yaml.
    `settings` is a digest of the parameters, and of the renderer; `fingerprint` of names, sizes and times of the
    source's files; `faceset` of ``faceset.json``, which holds digests of all the rest.
    """

    source: str
    given: bool
    settings: str
    fingerprint: str
    faceset: str


def read_record(paths: Paths) -> dict[str, Entry]:
    """The entries of all roles that have one, by role; none where the record is missing or damaged."""
    if not paths.faces_record.is_file():
        return {}
    try:
        return {role: Entry(**entry) for role, entry in read_document(paths.faces_record, remedy="").items()}
    except (StudyError, TypeError):
        return {}


def write_entry(paths: Paths, role: Role, entry: Entry) -> None:
    """Record the faces of one role; the entries of the others stay."""
    entries = {**read_record(paths), role.value: entry}
    write_document(paths.faces_record, {name: asdict(each) for name, each in entries.items()})


def resolve_source(source: str, base: Path) -> str:
    """``embedded``, or an absolute path; a relative one starts at `base`. `StudyError` for an empty one."""
    if not source.strip():
        raise StudyError("an empty source of faces: expected embedded, or the path to real faces.")
    if source == EMBEDDED:
        return source
    # Path's own methods raise for names of no user and for links in a circle
    return os.path.realpath(base / os.path.expanduser(source))  # noqa: PTH111


def digest_settings(block: Data, role: Role, source: str) -> str:
    """A digest of the parameters that decide the bytes of a role; and of the renderer's code, if it draws the faces."""
    settings = block.model_dump(include={"seed", "size", "channels", "tolerated", role.value})
    for name in {*RealFaces.model_fields, "test_share"} if source == EMBEDDED else {"source"}:
        settings[role.value].pop(name, None)
    digest = hashlib.sha256(repr(settings).encode())
    if source == EMBEDDED:
        digest.update(fingerprint_functions(draw_role, production.import_embedded).encode())
    return digest.hexdigest()


def digest_source(source: str) -> str:
    """A digest of the names, sizes and times of a source's files; empty for embedded faces and an absent source.

    The files of a label table are the table and its pictures.
    """
    if source == EMBEDDED or not Path(source).exists():
        return ""
    digest = hashlib.sha256()
    for count, file in enumerate(sorted(_list_files(Path(source))), start=1):
        check_count(Path(source), count)
        stat = file.stat()
        digest.update(f"{os.fsencode(file)!r} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _list_files(source: Path) -> Iterator[Path]:
    """The file `source`, or the files below it; links to directories are followed, as when the faces are read."""
    if not source.is_dir():
        yield source
        if source.suffix.lower() == ".csv":
            yield from (file for file in map(source.parent.joinpath, list_pictures(source)) if file.is_file())
        return
    visited = set()
    for directory, folders, names in os.walk(source, followlinks=True):
        real_path = Path(directory).resolve()
        if real_path in visited:  # a circle of links
            folders.clear()
            continue
        visited.add(real_path)
        yield from (file for file in map(Path(directory).joinpath, names) if file.is_file())


def find_damage(paths: Paths, role: Role, entry: Entry) -> str:
    """Why the faces of `role` are not those that `entry` records, as a sentence; empty where they are."""
    directory = paths.faces(role)
    try:
        FaceSet.open(directory, role=role).check_pixels()
        if digest_file(directory / HEADER_FILE) != entry.faceset:
            return f"{directory}: other faces than those that were made here."
    except (StudyError, OSError) as error:
        return str(error).removesuffix(f" {REMEDY}")  # which whoever asks here does, or says better
    return ""
