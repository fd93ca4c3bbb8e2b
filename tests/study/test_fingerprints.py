"""A fingerprint changes with what a stage computes, and with nothing else."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from facespec.study import fingerprints
from facespec.study.fingerprints import fingerprint_functions, fingerprint_stage

FILES = {
    "stages/measure.py": '''
        """Measure."""
        from facespec.lengths import LIMIT, to_metres as convert
        from facespec import tables
        from facespec.study.params import Params

        def run(paths, params: Params):
            """Write a table."""
            size: int = params.measure.size  # in feet
            if size > LIMIT:
                raise ValueError(f"{size} is too long")
            return tables.write(convert(size))
    ''',
    "lengths.py": """
        import math
        LIMIT = 7
        def to_metres(feet: float) -> float:
            return math.floor(feet * FACTOR)
        FACTOR = 0.3
        def to_miles(feet):
            return feet / 5280
    """,
    "tables.py": """
        from pathlib import Path
        SHIFTS = Path(__file__).with_name("shifts.csv")
        register("tables")
        def write(value):
            return value, SHIFTS.read_text()
        def read():
            return None
    """,
    "shifts.csv": "1,2\n",
    "study/params.py": """
        class Block:
            frozen = True
        class Measure(Block):
            size: int = 3
        class Other(Block):
            count: int = 4
        class Params(Block):
            measure: Measure
            other: Other
    """,
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small package called facespec, of which `fingerprint_stage("measure")` reads the files."""
    directory = tmp_path / "facespec"
    for name, text in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(textwrap.dedent(text))
    (directory / "__init__.py").touch()
    monkeypatch.setattr(fingerprints, "PACKAGE", directory)
    forget()
    yield directory
    forget()


def forget() -> None:
    for function in (fingerprints.fingerprint_stage, fingerprints._parse, fingerprints._resolve):
        function.cache_clear()


def fingerprint_after(package: Path, name: str, old: str, new: str) -> str:
    """The fingerprint with one text of one file replaced; the file is restored."""
    before = (package / name).read_text()
    assert old in before
    (package / name).write_text(before.replace(old, new))
    forget()
    after = fingerprint_stage("measure")
    (package / name).write_text(before)
    forget()
    return after


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("stages/measure.py", "  # in feet", "  # in feet, as ever"),
        ("stages/measure.py", '"""Write a table."""', '"""Write one row."""'),
        ("stages/measure.py", '"""Measure."""', ""),
        ("stages/measure.py", "size: int = params", "size = params"),
        ("stages/measure.py", "size > LIMIT", "(size\n > LIMIT)"),
        ("stages/measure.py", "is too long", "exceeds the limit"),
        ("lengths.py", "(feet: float) -> float", "(feet: int) -> int"),
        ("lengths.py", "feet / 5280", "feet / 5279"),
        ("lengths.py", "def to_miles", "def to_nautical_miles"),
        ("tables.py", "return None", "return 1"),
        ("study/params.py", "count: int = 4", "count: int = 5"),
        ("study/params.py", "    other: Other\n", ""),
    ],
)
def test_what_computes_nothing_in_the_stage_does_not_count(package: Path, name: str, old: str, new: str) -> None:
    assert fingerprint_after(package, name, old, new) == fingerprint_stage("measure")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("stages/measure.py", "size > LIMIT", "size >= LIMIT"),
        ("stages/measure.py", "raise ValueError", "raise TypeError"),
        ("stages/measure.py", "to_metres as convert", "to_miles as convert"),
        ("stages/measure.py", "tables.write(", "tables.read("),
        ("lengths.py", "LIMIT = 7", "LIMIT = 8"),
        ("lengths.py", "FACTOR = 0.3", "FACTOR = 0.31"),
        ("lengths.py", "import math", "import cmath as math"),
        ("tables.py", 'register("tables")', 'register("table")'),
        ("tables.py", "SHIFTS.read_text()", "SHIFTS.read_bytes()"),
        ("shifts.csv", "1,2", "1,3"),
        ("study/params.py", "size: int = 3", "size: int = 4"),
        ("study/params.py", "size: int = 3", "size: float = 3"),
        ("study/params.py", "frozen = True", "frozen = False"),
    ],
)
def test_what_the_stage_reaches_counts(package: Path, name: str, old: str, new: str) -> None:
    assert fingerprint_after(package, name, old, new) != fingerprint_stage("measure")


def test_a_definition_may_move_to_another_file(package: Path) -> None:
    before = fingerprint_stage("measure")
    text = (package / "lengths.py").read_text()
    (package / "distances.py").write_text("LIMIT = 7\n")
    (package / "lengths.py").write_text(text.replace("LIMIT = 7", "from facespec.distances import LIMIT"))
    forget()
    assert fingerprint_stage("measure") == before


def test_functions_count_with_what_they_reach() -> None:
    """The embedded faces, without the code that imports real ones."""
    from facespec.data.batches import draw_augmentation
    from facespec.data.embedded.roles import draw_role

    assert fingerprint_functions(draw_role) != fingerprint_functions(draw_augmentation)
    assert fingerprint_functions(draw_role) == fingerprint_functions(draw_role)
