"""What every study directory starts from: parameters, pipeline and notebooks, in a clone or inside the package."""

from __future__ import annotations

from pathlib import Path

from facespec.study.errors import StudyError

PACKAGE = Path(__file__).resolve().parents[1]
NOTEBOOKS = "Analysis_Reproduction"
BY_TASK = Path(".dvc", "plots", "by_task.json")  # how DVC draws training curves: a colour per task
FILES = ("params.yaml", "dvc.yaml", ".dvcignore", BY_TASK.as_posix())


def find_template(package: Path = PACKAGE) -> Path:
    """The directory that holds `FILES` and the notebooks: the clone, or what a wheel carries (``setup.py``)."""
    for directory in (package.parent, package / "template"):
        if all((directory / name).is_file() for name in FILES):
            return directory
    raise StudyError(f"{package}: neither in a clone of the project nor installed with its template. Install it again.")


def is_clone(template: Path) -> bool:
    """Whether a template is a clone of the project, which has studies of its own."""
    return (template / "pyproject.toml").is_file()
