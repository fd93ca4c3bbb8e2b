"""Keep what the reference study gives: its lock, verdicts, small tables, and figures that fit a page.

python .ci/reference.py runs/reference docs/reference  # make reference
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

from facespec.study.tables import ALL_IMAGES

SMALL = 300_000  # bytes of a table that is kept
WIDTH = 1500  # px of a figure
COLOURS = 128
KEPT = ("dvc.lock", "params.yaml", "Results/checks/verdicts.json", "Results/checks/verdicts.csv")


def keep_study(study: Path, target: Path) -> None:
    """Copy the small files of a finished `study` to `target`, whose earlier tables and figures are removed."""
    tables = sorted((study / "Results").glob("*.csv"))
    figures = sorted((study / "Results" / "figures").glob("*.png"))
    if not tables or not figures:
        raise SystemExit(f"{study}: no finished study. Run facespec repro {study} first.")
    for folder in ("tables", "figures"):
        shutil.rmtree(target / folder, ignore_errors=True)
        (target / folder).mkdir(parents=True)
    for name in KEPT:
        shutil.copyfile(study / name, target / Path(name).name)
    for path in tables:
        keep_table(path, target / "tables" / path.name)
    for path in figures:
        shrink_figure(path, target / "figures" / path.name)


def keep_table(source: Path, target: Path) -> None:
    """Write a table without its resamples, unless it is still large; numbers stay as they are spelled."""
    table = pd.read_csv(source, dtype=str, keep_default_na=False)
    if "resample" in table:
        table = table[table["resample"] == str(ALL_IMAGES)]
    text = table.to_csv(index=False, lineterminator="\n")
    if len(text) <= SMALL:
        target.write_text(text, encoding="utf-8")


def shrink_figure(source: Path, target: Path) -> None:
    """Write `source` with few colours and at most `WIDTH` px wide: a fifth of the bytes, and legible."""
    with Image.open(source) as picture:
        rgb = picture.convert("RGB")
    if rgb.width > WIDTH:
        rgb = rgb.resize((WIDTH, round(rgb.height * WIDTH / rgb.width)), Image.Resampling.LANCZOS)
    rgb.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    keep_study(Path(sys.argv[1]), Path(sys.argv[2]))
