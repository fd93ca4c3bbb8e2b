from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespec.data import voxceleb
from facespec.data.faceset import FaceSet, write_faceset
from facespec.data.intake import Wanted

WANTED = Wanted(48, 1, 0.0)


def picture(grey: int, size: tuple[int, int] = (60, 70), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, grey if mode == "L" else (grey,) * len(Image.new(mode, (1, 1)).getbands())).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def videos(people: dict[str, list[int]]) -> dict[str, bytes]:
    """Name -> frames of each video; every picture differs."""
    number = iter(range(256))
    return {f"unzippedFaces/{person}/1.6/v{i}/{frame:07d}.png": picture(next(number))
            for person, lengths in people.items() for i, n in enumerate(lengths) for frame in range(n)}  # fmt: skip


TWO = {"Ann_A": [4, 3, 5], "Bob_B": [2, 2]}


def packed(at: Path, kind: str, files: dict[str, bytes]) -> Path:
    """`files`, in this order, as a directory (kind "") or an archive."""
    path = at / f"faces{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif kind == ".tar.xz":
        with lzma.open(path, "w", preset=0) as raw, tarfile.open(fileobj=raw, mode="w|") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def silent(done: int, total: int) -> None:
    del done, total


def imported(path: Path, to: Path, *, wanted: Wanted = WANTED, test: int = 2, seed: int = 0) -> FaceSet:
    generator = np.random.Generator(np.random.PCG64(seed))
    taken = voxceleb.read(path, wanted, test=test, generator=generator, report=silent)
    return write_faceset(to, taken.chunks, taken.description)


def splits(faceset: FaceSet) -> dict[str, str]:
    return dict(zip(faceset.labels["stimulus"], faceset.labels["split"], strict=True))


@pytest.mark.parametrize("test", [1, 2, 3, 5, 7, 12])
@pytest.mark.parametrize("seed", range(4))
def test_no_video_is_on_both_sides(test: int, seed: int, tmp_path: Path) -> None:
    """Of Ann's 4, 3 and 5 frames, any two videos may be tested; of Bob's 2 and 2, one."""
    found = splits(imported(packed(tmp_path, "", videos(TWO)), tmp_path / "set", test=test, seed=seed))
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


def test_another_stream_tests_other_videos(tmp_path: Path) -> None:
    path = packed(tmp_path, "", videos({"Ann_A": [2] * 9, "Bob_B": [2] * 9}))
    results = [splits(imported(path, tmp_path / "set", seed=seed)) for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]


def test_a_persons_split_does_not_depend_on_the_others(tmp_path: Path) -> None:
    few = splits(imported(packed(tmp_path, "", videos(TWO)), tmp_path / "a"))
    more = splits(imported(packed(tmp_path, ".zip", videos({"Aaa": [3, 3], **TWO})), tmp_path / "b"))
    assert {stimulus: split for stimulus, split in more.items() if not stimulus.startswith("Aaa")} == few
