from __future__ import annotations

from pathlib import Path

import pytest

from facespec.study.paths import Paths


def test_paths_are_pure(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "nowhere")
    everything = [
        paths.params,
        paths.data,
        paths.faces("probe"),
        paths.results,
        paths.table("decoding"),
        paths.verdicts,
        paths.figure("Fig1", "pdf"),
        paths.checkpoint("train", "joint", 1),
        paths.history("train", "joint", 1),
        paths.progress("train", "joint", 1),
    ]
    assert len(set(everything)) == len(everything)
    assert all(path.is_relative_to(tmp_path / "nowhere") for path in everything)
    assert not (tmp_path / "nowhere").exists()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="SPLIT"):
        Paths().checkpoint("train", "SPLIT", 1)
