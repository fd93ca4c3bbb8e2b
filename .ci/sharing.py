"""Keep the networks' answers of the project's grid, or put the kept ones where the grid is fitted.

python .ci/sharing.py keep runs/sharing docs/sharing
python .ci/sharing.py restore docs/sharing runs/sharing
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

SMALL = ("dvc.lock", "params.yaml", "Results/sharing.csv", "Results/figures/figure_sharing.png")


def keep(study: Path, target: Path) -> None:
    """Copy the answers, the lock, the table and the figure of `study`, finished or not, to `target`."""
    shutil.rmtree(target / "fits", ignore_errors=True)
    shutil.copytree(study / "fits", target / "fits", ignore=shutil.ignore_patterns(".*"))
    for name in SMALL:
        shutil.copyfile(study / name, target / Path(name).name)


def restore(source: Path, study: Path) -> None:
    """Copy answers and lock from `source` to `study`, unless it has some of its own."""
    if (study / "dvc.lock").exists() or not (source / "dvc.lock").exists():
        return
    shutil.copytree(source / "fits", study / "fits")
    shutil.copyfile(source / "dvc.lock", study / "dvc.lock")


if __name__ == "__main__":
    {"keep": keep, "restore": restore}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
