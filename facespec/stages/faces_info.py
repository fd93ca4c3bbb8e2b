"""What one set of faces says about itself, for the terminal: source, counts, size, content hash, excluded files."""

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
LISTED = 20  # excluded files named one by one, at most


def describe_faces(faces: FaceSet) -> list[RenderableType]:
    """About `faces`: a table, the counts per class and split, and excluded files with reasons (at most 20 named)."""
    return [_about(faces), _counts(faces.labels), *_excluded(faces), Text("")]


def _about(faces: FaceSet) -> Table:
    colour = "grey" if faces.channels == 1 else "RGB"
    shown = Table(title=f"{faces.role} role", box=box.SIMPLE_HEAD, show_header=False, padding=(0, 1, 0, 0))
    for name, value in (
        ("source", faces.source),
        ("images", f"{faces.n:,}"),
        ("people", _people(faces.labels)),
        ("size", f"{faces.height} x {faces.width} px, {colour}"),
        ("region maps", "yes" if faces.region_codes else "no"),
        ("content", str(faces.provenance.get("content", "no hash recorded"))),
        *(("note", str(note)) for note in faces.provenance.get("notes", ())),
    ):
        shown.add_row(Text(name, style="bold"), Text(value))
    return shown


def _people(labels: pd.DataFrame) -> str:
    known = labels.loc[labels["identity"] != "", "identity"]
    if known.empty:
        return "unknown"
    each = known.value_counts()
    spread = f"{each.min():,}" if each.min() == each.max() else f"{each.min():,} to {each.max():,}"
    return f"{len(each):,}, {spread} images of each"


def _counts(labels: pd.DataFrame) -> Table:
    """Images per expression (rows) and split (columns)."""
    splits = [split for split in SPLITS if (labels["split"] == split).any()]
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("expression")
    for split in splits:
        shown.add_column(split, justify="right")
    found = labels.groupby(["expression", "split"]).size()
    present = [name for name in (*EXPRESSIONS, "") if (labels["expression"] == name).any()]
    for name in present:
        shown.add_row(str(name) or "unknown", *(f"{found.get((name, split), 0):,}" for split in splits))
    if len(present) > 1:
        shown.add_row("all", *(f"{(labels['split'] == split).sum():,}" for split in splits))
    return shown


def _excluded(faces: FaceSet) -> Iterator[Text]:
    excluded = faces.provenance.get("excluded", [])
    if not excluded:
        yield Text("No file was excluded.")
        return
    yield Text(f"Excluded files: {len(excluded):,}")
    for entry in excluded[:LISTED]:
        yield Text(f"  {entry['file']}: {entry['reason']}")
    for reason, number in Counter(entry["reason"] for entry in excluded[LISTED:]).most_common():
        yield Text(f"  and {number:,} more: {reason}")
