"""How is a set of faces that was made before used as the source of a role? Its pictures and labels are copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from facespec.data.chunks import FaceChunk, FaceImport, FaceSetDescription
from facespec.data.faceset import HEADER_FILE, FaceSet
from facespec.data.importing import SHARD, FileImporter, ImportOptions, Report
from facespec.data.user_faces import UserSource, read_labelled
from facespec.data.user_labels import LabelledFile
from facespec.study.vocabulary import EMBEDDED_NAME, TEST, TRAIN


def is_faceset(path: Path) -> bool:
    """Whether `path` is a directory that `write_faceset` wrote."""
    return (path / HEADER_FILE).is_file()


def read_faceset(path: Path, source: UserSource, options: ImportOptions, *, report: Report) -> FaceImport:
    """Read the FaceSet `path`, of any role, size and channels, for the role of `source`.

    Its splits are kept where it has both, else drawn; region maps are not copied. Raises `StudyError` for damaged
    faces, and for labels that the role cannot use.
    """
    faces = FaceSet.open(path)
    # facespec draws embedded faces anew from params.yaml: those of another study are pictures like others
    inherited = faces.source if faces.source != EMBEDDED_NAME else f"{EMBEDDED_NAME} of {path.resolve().name}"
    importer = FileImporter(path, source.block.name or inherited, options)
    importer.notes.append(f"copied from a set of faces of the {faces.role} role ({faces.source})")
    labels = faces.labels
    has_splits = {TRAIN, TEST} <= set(labels["split"])
    labelled = []
    for row in labels.to_numpy(dtype=str).tolist():
        words = dict(zip(map(str, labels.columns), row, strict=True))
        labelled.append(LabelledFile.from_words(words["stimulus"], words if has_splits else words | {"split": ""}))
    row_of = dict(zip(labels["stimulus"], range(len(labels)), strict=True))

    def load(name: str) -> Image.Image:
        return Image.fromarray(faces.images(np.array([row_of[name]]))[0])

    def iterate() -> Iterator[FaceChunk]:
        yield from read_labelled(labelled, load, importer, source, report=report)

    return FaceImport(iterate(), FaceSetDescription(source.role.value, SHARD, None, importer.summarise))
