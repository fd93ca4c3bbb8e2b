"""What does a set of faces contain? Source, counts, size, content hash and excluded files, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pandas as pd
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from facespec.data.faceset import FaceSet
from facespec.study.tables import LABELS
from facespec.study.vocabulary import EXPRESSIONS

SPLITS = LABELS.columns["split"].allowed
LISTED = 20  # excluded files listed by name, at most


def describe_faces(faces: FaceSet) -> list[RenderableType]:
    """Return a table about `faces`, the counts per class and split, and excluded files (at most 20 by name)."""
    return [_tabulate_facts(faces), _tabulate_counts(faces.labels), *_list_excluded(faces), Text("")]


def _tabulate_facts(faces: FaceSet) -> Table:
    colour = "grey" if faces.channels == 1 else "RGB"
    table = Table(title=f"{faces.role} role", box=box.SIMPLE_HEAD, show_header=False, padding=(0, 1, 0, 0))
    for name, value in (
        ("source", faces.source),
        ("images", f"{faces.n:,}"),
        ("people", _count_people(faces.labels)),
        ("size", f"{faces.height} x {faces.width} px, {colour}"),
        ("region maps", "yes" if faces.region_codes else "no"),
        ("content", str(faces.provenance.get("content", "no hash recorded"))),
        *(("note", str(note)) for note in faces.provenance.get("notes", ())),
    ):
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _count_people(labels: pd.DataFrame) -> str:
    images = labels.loc[labels["identity"] != "", "identity"].value_counts()
    if images.empty:
        return "unknown"
    few, many = images.min(), images.max()
    return f"{len(images):,}, {few:,}{f' to {many:,}' if few < many else ''} images of each"


def _tabulate_counts(labels: pd.DataFrame) -> Table:
    """Images per expression (rows) and split (columns)."""
    counts = pd.crosstab(labels["expression"], labels["split"])
    splits = [split for split in SPLITS if split in counts.columns]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("expression")
    for split in splits:
        table.add_column(split, justify="right")
    for name in (name for name in (*EXPRESSIONS, "") if name in counts.index):
        table.add_row(str(name) or "unknown", *(f"{counts[split][name]:,}" for split in splits))
    if len(counts) > 1:
        table.add_row("all", *(f"{counts[split].sum():,}" for split in splits))
    return table


def _list_excluded(faces: FaceSet) -> Iterator[Text]:
    excluded = faces.provenance.get("excluded", [])
    if not excluded:
        yield Text("No file was excluded.")
        return
    yield Text(f"Excluded files: {len(excluded):,}")
    for entry in excluded[:LISTED]:
        yield Text(f"  {entry['file']}: {entry['reason']}")
    for reason, number in Counter(entry["reason"] for entry in excluded[LISTED:]).most_common():
        yield Text(f"  and {number:,} more: {reason}")
