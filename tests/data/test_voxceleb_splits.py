from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facespec.data.faceset import FaceSet

TWO = {"Ann_A": [4, 3, 5], "Bob_B": [2, 2]}


def splits(faceset: FaceSet) -> dict[str, str]:
    return dict(zip(faceset.labels["stimulus"], faceset.labels["split"], strict=True))


@pytest.mark.parametrize("test", [1, 2, 3, 5, 7, 12])
@pytest.mark.parametrize("seed", range(4))
def test_no_video_is_on_both_sides(voxceleb: Any, test: int, seed: int, tmp_path: Path) -> None:
    """Of Ann's 4, 3 and 5 frames, any two videos may be tested; of Bob's 2 and 2, one."""
    found = splits(
        voxceleb.imported(voxceleb.packed(tmp_path, "", voxceleb.videos(TWO)), tmp_path / "set", test=test, seed=seed)
    )
    for person, lengths in TWO.items():
        sides: dict[str, set[str]] = {"train": set(), "test": set()}
        tested = 0
        for stimulus, split in found.items():
            if stimulus.startswith(person):
                sides[split].add(stimulus.split("/")[1])
                tested += split == "test"
        assert sides["train"] and sides["test"] and not sides["train"] & sides["test"]
        # as many as asked for, or all of the videos but one
        held_out = sum(n for i, n in enumerate(lengths) if f"v{i}" not in sides["train"])
        assert tested == min(test, held_out)
        if tested < test:
            assert len(sides["train"]) == 1
        # videos that train do so with every frame
        trained = sum(split == "train" for stimulus, split in found.items() if stimulus.startswith(person))
        assert trained == sum(n for i, n in enumerate(lengths) if f"v{i}" in sides["train"])


def test_another_stream_tests_other_videos(voxceleb: Any, tmp_path: Path) -> None:
    path = voxceleb.packed(tmp_path, "", voxceleb.videos({"Ann_A": [2] * 9, "Bob_B": [2] * 9}))
    results = [splits(voxceleb.imported(path, tmp_path / "set", seed=seed)) for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]


def test_a_persons_split_does_not_depend_on_the_others(voxceleb: Any, tmp_path: Path) -> None:
    few = splits(voxceleb.imported(voxceleb.packed(tmp_path, "", voxceleb.videos(TWO)), tmp_path / "a"))
    more = splits(
        voxceleb.imported(voxceleb.packed(tmp_path, ".zip", voxceleb.videos({"Aaa": [3, 3], **TWO})), tmp_path / "b")
    )
    assert {stimulus: split for stimulus, split in more.items() if not stimulus.startswith("Aaa")} == few
