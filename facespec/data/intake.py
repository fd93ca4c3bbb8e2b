"""Intake: from a data set's entries to chunks of a FaceSet, with an account of what came in and what did not."""

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

from facespec.data.archives import ArchiveFiles, UnusableArchive
from facespec.data.chunks import FaceChunk
from facespec.data.pictures import fit_image, is_picture
from facespec.study.errors import StudyError
from facespec.study.tables import LABELS

SHARD = 2048  # images per file, as in the embedded faces
CHUNK = 512  # images held at once, at most
CHUNK_BYTES = 2**25  # of them, at most

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class ImportOptions:
    """What the study wants of real faces: `size` px, `channels` 1 or 3, and the share of bad files `tolerated`."""

    size: int
    channels: int
    tolerated: float


class FileEntry(NamedTuple):
    """One picture that should come in: where it is, what messages call it, and its labels."""

    place: Any
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
    """The account of one import of the data set `source` from `path`."""

    def __init__(self, path: Path, source: str, wanted: ImportOptions) -> None:
        self.path = path
        self.wanted = wanted
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self._source = source
        self._excluded: list[tuple[str, str]] = []
        self._bad: list[tuple[str, str]] = []
        self._digests: list[bytes] = []
        self._people: set[str] = set()

    def exclude(self, file: str, verdict: UnusableArchive) -> None:
        """Leave `file` out; it counts against the tolerated share unless it is bad in every copy."""
        self._excluded.append((file, str(verdict)))
        if not verdict.known:
            self._bad.append((file, str(verdict)))

    def exclude_others(self, files: ArchiveFiles, others: Iterable[str], *, why: str) -> None:
        """Leave out what is not part of the data set; only pictures count against the tolerated share."""
        for name, reason in (*files.refused, *((name, why) for name in others)):
            self.exclude(name, UnusableArchive(reason, known=not is_picture(name)))

    def distinct(self, entries: Iterable[FileEntry]) -> list[FileEntry]:
        """`entries` in the order of their stimulus names; of two with one name, the second file is left out."""
        kept: list[FileEntry] = []
        for entry in sorted(entries, key=lambda entry: (entry.stimulus, entry.file)):
            if kept and entry.stimulus == kept[-1].stimulus:
                self.exclude(entry.file, UnusableArchive(f"the same face as {kept[-1].file}, by its name"))
            else:
                kept.append(entry)
        return kept

    def chunks(
        self, entries: Sequence[FileEntry], load: Callable[[FileEntry], Image.Image], *, report: Report
    ) -> Iterator[FaceChunk]:
        """Load `entries` in their order, a bounded number at a time; then refuse the whole if too many are bad."""
        per_chunk = min(CHUNK, max(1, CHUNK_BYTES // (self.wanted.size**2 * self.wanted.channels)))
        for start in range(0, len(entries), per_chunk):
            part = entries[start : start + per_chunk]
            came = [(entry, image) for entry in part if (image := self._loaded(entry, load)) is not None]
            if came:
                labels = pd.DataFrame([entry.labels for entry, _ in came], columns=list(LABELS.columns))
                yield FaceChunk(np.stack([image for _, image in came]), labels)
            report(start + len(part), len(entries))
        self._refuse_too_many()

    def _loaded(self, entry: FileEntry, load: Callable[[FileEntry], Image.Image]) -> np.ndarray | None:
        try:
            image = load(entry)
        except UnusableArchive as verdict:
            self.exclude(entry.file, verdict)
            return None
        # names are left out: the same pictures are the same content, whatever an edition calls them
        head = repr((entry.labels[1:], image.mode, image.size)).encode()
        self._digests.append(hashlib.sha256(head + image.tobytes()).digest())
        self._count(entry)
        return fit_image(image, size=self.wanted.size, channels=self.wanted.channels)

    def _count(self, entry: FileEntry) -> None:
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
        if bad > self.wanted.tolerated * n:
            examples = "; ".join(f"{file}: {reason}" for file, reason in sorted(self._bad)[:3])
            raise StudyError(
                f"{self.path}: {bad} of {n} images ({bad / n:.2%}) cannot be used; at most "
                f"{self.wanted.tolerated:.2%} may be left out (data.tolerated). First: {examples}. "
                "Fetch the data set again, or raise data.tolerated in params.yaml."
            )

    def provenance(self) -> dict[str, Any]:
        """Source, counts, excluded files with reasons, notes, and a hash of the pictures as read and their labels.

        The hash does not depend on path, kind of archive, names, order, or the size and channels that are wanted.
        """
        return {
            "source": self._source,
            "counts": dict(self.counts),
            "excluded": [{"file": file, "reason": reason} for file, reason in sorted(self._excluded)],
            "notes": sorted(self.notes),
            "content": hashlib.sha256(b"".join(sorted(self._digests))).hexdigest(),
        }
