from __future__ import annotations

import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from facespec.published.reference import read_reference_accuracy
from facespec.stages import published as stage
from facespec.study.errors import StudyError
from facespec.study.pickles import write_pickle

FILES = dict(zip(("1B", "1C", "S1A", "S1B"), dict.fromkeys(read_reference_accuracy()["file"]), strict=True))


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    return console.file.getvalue()


class Payload:
    """Touches a file when a trusting reader loads it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def other_numbers(figure: str) -> dict[str, list[float]]:
    keys = read_reference_accuracy(figure)["key"]
    return {key: np.linspace(0.1, 0.9, 100).tolist() for key in keys}


def test_replay_draws_checks_and_tells_where(published: Path, tmp_path: Path, console: Console) -> None:
    stage.replay(published, tmp_path / "to", console)
    names = sorted(f"figure_{figure}.{suffix}" for figure in FILES for suffix in ("pdf", "png"))
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == names
    for name in names:
        assert f"figure  {tmp_path / 'to' / name}" in said(console)
    assert said(console).count("+ same") == 16 and "- other" not in said(console) and "absent" not in said(console)


def test_two_replays_give_the_same_bytes(published: Path, tmp_path: Path, console: Console) -> None:
    (tmp_path / "from").mkdir()
    shutil.copy(published / FILES["1B"], tmp_path / "from")
    for to in ("one", "two"):
        stage.replay(tmp_path / "from", tmp_path / to, console)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_absent_files_are_said_and_the_others_drawn(published: Path, tmp_path: Path, console: Console) -> None:
    (tmp_path / "from").mkdir()
    shutil.copy(published / FILES["S1A"], tmp_path / "from")
    stage.replay(tmp_path / "from", tmp_path / "to", console)
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["figure_S1A.pdf", "figure_S1A.png"]
    lines = [line for line in said(console).splitlines() if line.startswith("absent")]
    assert lines == [f"absent  {FILES[figure]}" for figure in ("1B", "1C", "S1B")]


def test_panels_are_both_styles_of_the_same_numbers(published: Path) -> None:
    from facespec.published.export import read_results, tabulate_results

    sound, original = stage._panels(tabulate_results(read_results(published)), "1B").values()
    assert (sound.style, original.style) == ("sound", "published")
    for one, other in zip(sound.bars, original.bars, strict=True):
        assert one.mean == pytest.approx(other.mean) and other.high - other.low < 0.2 * (one.high - one.low)


def test_other_numbers_are_drawn_and_refused(tmp_path: Path, console: Console) -> None:
    write_pickle(tmp_path / FILES["1C"], other_numbers("1C"))
    with pytest.raises(StudyError) as caught:
        stage.replay(tmp_path, tmp_path / "to", console)
    first, *lines = str(caught.value).replace(str(tmp_path), "DIR").splitlines()
    assert first == "DIR: not the published numbers:" and len(lines) == 16
    assert lines[0] == "  figure 1C, expression network, expression: mean is 0.500000, published 0.546429"
    assert (tmp_path / "to" / "figure_1C.png").is_file() and said(console).count("- other") == 4


def test_a_pickle_that_would_run_code_is_refused_by_name_and_runs_nothing(tmp_path: Path, console: Console) -> None:
    source, marker = tmp_path / "from", tmp_path / "it_ran"
    source.mkdir()
    bomb = source / FILES["1B"]
    bomb.write_bytes(pickle.dumps(other_numbers("1B") | {"more": Payload(marker)}))
    with pytest.raises(StudyError) as caught:
        stage.replay(source, tmp_path / "to", console)
    assert str(caught.value) == (
        f"{bomb}: refused {os.system.__module__}.system: only built-in containers, numbers and numpy arrays are read."
    )
    assert not marker.exists() and not (tmp_path / "to").exists() and not said(console)
    with bomb.open("rb") as file:
        pickle.load(file)  # the file is no dud: a trusting reader does run it
    assert marker.exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_directory_without_any_of_the_files(tmp_path: Path, console: Console, there: bool) -> None:
    source = tmp_path / "from"
    if there:
        source.mkdir()
        (source / "notes.txt").touch()
    with pytest.raises(StudyError) as caught:
        stage.replay(source, tmp_path / "to", console)
    assert str(caught.value).replace(str(source), "DIR") == (
        f"DIR: none of the published accuracy files is there ({', '.join(FILES.values())}). "
        "`facespec published fetch --to DIR` gets them."
    )
    assert not (tmp_path / "to").exists()


def test_fetch_tells_every_files_status(published: Path, tmp_path: Path, console: Console) -> None:
    stage.fetch(str(published), tmp_path / "to", console)
    rows = {
        line.split()[0]: line.split()[1]
        for line in said(console).splitlines()
        if line.endswith(("present ", "absent  "))
    }
    assert len(rows) == 17 and {name for name, status in rows.items() if status == "present"} >= set(FILES.values())
    assert rows["Supplementary_Figures.ipynb"] in ("absent", "present")
    for name in FILES.values():
        assert (tmp_path / "to" / name).read_bytes() == (published / name).read_bytes()
    assert f"{tmp_path / 'to'}: the " in said(console)


def test_fetch_refuses_altered_files_after_telling(tmp_path: Path, console: Console) -> None:
    source = tmp_path / "from"
    source.mkdir()
    write_pickle(source / FILES["1B"], other_numbers("1B"))
    with pytest.raises(StudyError) as caught:
        stage.fetch(str(source), tmp_path / "to", console)
    assert str(caught.value) == (
        f"refused, and not written: {FILES['1B']}. The bytes differ from those of commit e570ea8; "
        "fetch from the original repository, or name a directory with unaltered files."
    )
    assert "altered" in said(console) and not (tmp_path / "to").exists()


def test_fetch_from_a_directory_without_any_of_the_files(tmp_path: Path, console: Console) -> None:
    with pytest.raises(StudyError) as caught:
        stage.fetch(str(tmp_path), tmp_path / "to", console)
    assert str(caught.value).replace(str(tmp_path), "DIR") == (
        "DIR: none of the 17 published files is there. Name the directory that holds them."
    )


def test_an_empty_source_is_not_the_original_repository(tmp_path: Path, console: Console) -> None:
    with pytest.raises(StudyError, match=r"^'': no source"):
        stage.fetch("", tmp_path, console)


def test_fetch_asks_the_original_repository_by_default(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetched(source: str, to: Path) -> object:
        asked.append((source, to))
        raise StudyError("no network in tests")

    monkeypatch.setattr(stage.fetching, "fetch", fetched)
    with pytest.raises(StudyError, match="no network in tests"):
        stage.fetch(None, tmp_path, console)
    assert asked == [("https://github.com/yanistazi/Identity_Expression_Specialization", tmp_path)]
