"""How do the pictures of a data set become chunks of a FaceSet, and which files were excluded for which reason?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from facespec.data.archives import ArchiveFiles, UnusableFile
from facespec.data.chunks import FaceChunk
from facespec.data.pictures import Box, crop_image, fit_image, is_picture
from facespec.study.errors import StudyError
from facespec.study.params import FaceBox
from facespec.study.tables import LABELS

SHARD = 2048  # images per file, as in the embedded faces
CHUNK = 512  # images held at once, at most
CHUNK_BYTES = 2**25  # bytes of images held at once, at most

Report = Callable[[int, int], None]  # called with the numbers of entries read and of all entries


@dataclass(frozen=True)
class ImportOptions:
    """How to import real faces.

    `size` in pixels, `channels` 1 or 3, the `tolerated` share of bad files, and the part of every picture to `crop`.
    """

    size: int
    channels: int
    tolerated: float
    crop: FaceBox | None = None


class FileEntry(NamedTuple):
    """One picture to import: its location as the loader needs it, its name in messages, and its labels."""

    location: Any
    file: str
    stimulus: str
    split: str
    identity: str = ""
    expression: str = ""
    view: str = ""
    session: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The row of `study.tables.LABELS`."""
        return self[2:]


class FileImporter:
    """Imports the data set at `path`, called `source`, and records counts, notes and excluded files."""

    def __init__(self, path: Path, source: str, options: ImportOptions) -> None:
        self.path = path
        self.source = source
        self.options = options
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self._excluded: list[tuple[str, str]] = []
        self._bad: list[tuple[str, str]] = []
        self._digests: list[bytes] = []
        self._people: set[str] = set()

    def exclude(self, file: str, problem: UnusableFile) -> None:
        """Exclude `file`; it counts against the tolerated share unless it is bad in every copy of the data set."""
        self._excluded.append((file, str(problem)))
        if not problem.in_every_copy:
            self._bad.append((file, str(problem)))

    def exclude_others(self, files: ArchiveFiles, others: Iterable[str], *, reason: str) -> None:
        """Exclude what is not part of the data set; only pictures count against the tolerated share."""
        for name, problem in (*files.refused, *((name, reason) for name in others)):
            self.exclude(name, UnusableFile(problem, in_every_copy=not is_picture(name)))

    def drop_duplicates(self, entries: Iterable[FileEntry]) -> list[FileEntry]:
        """`entries` sorted by stimulus name; of two with the same name, the second file is excluded."""
        unique: list[FileEntry] = []
        for entry in sorted(entries, key=lambda entry: (entry.stimulus, entry.file)):
            if unique and entry.stimulus == unique[-1].stimulus:
                self.exclude(entry.file, UnusableFile(f"the same face as {unique[-1].file}, by its name"))
            else:
                unique.append(entry)
        return unique

    def iterate_chunks(
        self, entries: Sequence[FileEntry], load: Callable[[FileEntry], Image.Image], *, report: Report
    ) -> Iterator[FaceChunk]:
        """Load `entries` in order, a bounded number at a time; at the end raise `StudyError` if too many are bad."""
        size, channels = self.options.size, self.options.channels
        per_chunk = min(CHUNK, max(1, CHUNK_BYTES // (size**2 * channels)))
        for start in range(0, len(entries), per_chunk):
            images, labels = [], []
            for entry in entries[start : start + per_chunk]:
                try:
                    image = load(entry)
                    face = _crop_share(image, self.options.crop)
                except UnusableFile as problem:
                    self.exclude(entry.file, problem)
                    continue
                self._record(entry, image)
                images.append(fit_image(face, size=size, channels=channels))
                labels.append(entry.labels)
            if images:
                yield FaceChunk(np.stack(images), pd.DataFrame(labels, columns=list(LABELS.columns)))
            report(min(start + per_chunk, len(entries)), len(entries))
        self._refuse_too_many()

    def _record(self, entry: FileEntry, image: Image.Image) -> None:
        # without the stimulus name: the same pictures are the same content, however an edition names them
        head = repr((entry.labels[1:], image.mode, image.size)).encode()
        self._digests.append(hashlib.sha256(head + image.tobytes()).digest())
        self.counts["images"] += 1
        for name in (entry.split, entry.expression, entry.view, entry.session and f"session {entry.session}"):
            if name:
                self.counts[name] += 1
        if entry.expression and entry.split != "probe":
            self.counts[f"{entry.split} {entry.expression}"] += 1
        if entry.identity:
            self._people.add(entry.identity)
            self.counts["people"] = len(self._people)

    def _refuse_too_many(self) -> None:
        bad, n = len(self._bad), len(self._bad) + self.counts["images"]
        if bad > self.options.tolerated * n:
            raise StudyError(
                f"{self.path}: {bad} of {n} images ({bad / n:.2%}) cannot be used; at most "
                f"{self.options.tolerated:.2%} may be left out (data.tolerated). First: {list_reasons(self._bad)}. "
                "Fetch the data set again, or raise data.tolerated in params.yaml."
            )

    def list_excluded(self) -> str:
        """The first few excluded files with their reasons, for messages."""
        return list_reasons(self._excluded)

    def summarise(self) -> dict[str, Any]:
        """The provenance: source, counts, excluded files with reasons, notes, and a hash of pictures and labels.

        The hash does not depend on path, kind of archive, names, order, size or channels.
        """
        return {
            "source": self.source,
            "counts": dict(self.counts),
            "excluded": [{"file": file, "reason": reason} for file, reason in sorted(self._excluded)],
            "notes": sorted(self.notes),
            "content": hashlib.sha256(b"".join(sorted(self._digests))).hexdigest(),
        }


def list_reasons(excluded: Sequence[tuple[str, str]]) -> str:
    """The first three of excluded files, each with its reason."""
    return "; ".join(f"{file}: {reason}" for file, reason in sorted(excluded)[:3])


def _crop_share(image: Image.Image, crop: FaceBox | None) -> Image.Image:
    """The part of `image` that `crop` describes in shares of its height and width, to the nearest pixel."""
    if crop is None:
        return image
    columns, rows = (
        [round(share * length) for share in shares]
        for shares, length in (((crop.left, crop.right), image.width), ((crop.top, crop.bottom), image.height))
    )
    return crop_image(image, Box(columns[0], rows[0], columns[1], rows[1]))
