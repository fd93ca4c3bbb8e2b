from __future__ import annotations

import io
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from facespec.published.export import read_results, tabulate_results
from facespec.published.reference import read_reference_accuracy
from facespec.stages import published as stage
from facespec.study.errors import StudyError
from facespec.study.pickles import write_pickle

FILES = dict(zip(("1B", "1C", "S1A", "S1B"), dict.fromkeys(read_reference_accuracy()["file"]), strict=True))


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An empty directory for published files."""
    (tmp_path / "from").mkdir()
    return tmp_path / "from"


def read_console(console: Console) -> str:
    return console.file.getvalue()


class Payload:
    """Touches a file when a trusting reader loads it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def make_other_numbers(figure: str) -> dict[str, list[float]]:
    return {key: np.linspace(0.1, 0.9, 100).tolist() for key in read_reference_accuracy(figure)["key"]}


def test_replay_draws_and_checks_every_figure(published: Path, tmp_path: Path, console: Console) -> None:
    stage.replay(published, tmp_path / "to", console)
    names = sorted(f"figure_{figure}.{suffix}" for figure in FILES for suffix in ("pdf", "png"))
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == names
    output = read_console(console)
    assert all(f"figure  {tmp_path / 'to' / name}" in output for name in names)
    assert output.count("+ same") == 16 and "- other" not in output and "absent" not in output


def test_absent_files_are_listed_and_the_others_drawn_with_the_same_bytes(
    published: Path, source: Path, tmp_path: Path, console: Console
) -> None:
    shutil.copy(published / FILES["S1A"], source)
    runs = []
    for name in ("one", "two"):
        stage.replay(source, tmp_path / name, console)
        runs.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert runs[0] == runs[1] and runs[0].keys() == {"figure_S1A.pdf", "figure_S1A.png"}
    lines = [line for line in read_console(console).splitlines() if line.startswith("absent")]
    assert lines == [f"absent  {FILES[figure]}" for figure in ("1B", "1C", "S1B")] * 2


def test_panels_are_both_styles_of_the_same_numbers(published: Path) -> None:
    sound, original = stage.make_panels(tabulate_results(read_results(published)), "1B").values()
    assert (sound.style, original.style) == ("sound", "published")
    for one, other in zip(sound.bars, original.bars, strict=True):
        assert one.mean == pytest.approx(other.mean) and other.high - other.low < 0.2 * (one.high - one.low)


def test_other_numbers_are_drawn_and_refused(source: Path, tmp_path: Path, console: Console) -> None:
    write_pickle(source / FILES["1C"], make_other_numbers("1C"))
    with pytest.raises(StudyError, match="from: not the published numbers:") as caught:
        stage.replay(source, tmp_path / "to", console)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 16
    assert lines[0] == "  figure 1C, expression network, expression: mean is 0.500000, published 0.546429"
    assert (tmp_path / "to" / "figure_1C.png").is_file() and read_console(console).count("- other") == 4


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    source: Path, tmp_path: Path, console: Console
) -> None:
    bomb, marker = source / FILES["1B"], tmp_path / "it_ran"
    bomb.write_bytes(pickle.dumps(make_other_numbers("1B") | {"more": Payload(marker)}))
    message = f"{bomb}: refused {os.system.__module__}.system: only built-in containers, numbers and numpy arrays"
    with pytest.raises(StudyError, match=re.escape(message)):
        stage.replay(source, tmp_path / "to", console)
    assert not marker.exists() and not (tmp_path / "to").exists() and not read_console(console)
    with bomb.open("rb") as file:
        pickle.load(file)  # the file is no dud: a trusting reader does run it
    assert marker.exists()


@pytest.mark.parametrize("name", ["from", "nowhere"])
def test_a_directory_without_any_of_the_files_is_refused(
    source: Path, tmp_path: Path, console: Console, name: str
) -> None:
    (source / "notes.txt").touch()
    message = (
        rf"{name}: none of the published accuracy files is there \({', '.join(FILES.values())}\)\. `facespec published"
    )
    with pytest.raises(StudyError, match=message):
        stage.replay(tmp_path / name, tmp_path / "to", console)
    assert not (tmp_path / "to").exists()


def test_fetch_prints_every_files_status(published: Path, tmp_path: Path, console: Console) -> None:
    stage.fetch(str(published), tmp_path / "to", console)
    lines = [line.split() for line in read_console(console).splitlines() if line.endswith(("present ", "absent  "))]
    statuses = dict(lines)
    assert len(statuses) == 17 and {statuses[name] for name in FILES.values()} == {"present"}
    assert statuses["Supplementary_Figures.ipynb"] in ("absent", "present")
    for name in FILES.values():
        assert (tmp_path / "to" / name).read_bytes() == (published / name).read_bytes()
    assert f"{tmp_path / 'to'}: the " in read_console(console)


def test_fetch_refuses_altered_files_after_their_status(source: Path, tmp_path: Path, console: Console) -> None:
    write_pickle(source / FILES["1B"], make_other_numbers("1B"))
    message = rf"refused, and not written: {FILES['1B']}\. The bytes differ from those of commit e570ea8; fetch from"
    with pytest.raises(StudyError, match=message):
        stage.fetch(str(source), tmp_path / "to", console)
    assert "altered" in read_console(console) and not (tmp_path / "to").exists()


def test_fetch_refuses_sources_without_files(source: Path, tmp_path: Path, console: Console) -> None:
    """An empty name is not that of the original repository."""
    with pytest.raises(StudyError, match=r"from: none of the 17 published files is there\. Name the directory"):
        stage.fetch(str(source), tmp_path / "to", console)
    with pytest.raises(StudyError, match=r"^'': no source"):
        stage.fetch("", tmp_path, console)


def test_fetch_reads_the_original_repository_by_default(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def record(source: str, to: Path) -> object:
        calls.append((source, to))
        raise StudyError("no network in tests")

    monkeypatch.setattr(stage.fetching, "fetch", record)
    with pytest.raises(StudyError, match="no network in tests"):
        stage.fetch(None, tmp_path, console)
    assert calls == [("https://github.com/yanistazi/Identity_Expression_Specialization", tmp_path)]
