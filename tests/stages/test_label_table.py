"""A user's images with their classes: what is read, and which tables are refused, with how to correct them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from facespec.stages.label_table import read_labels
from facespec.study.errors import StudyError
from toys import USER_MODULE

HEADER = "image,split,group,shape,tint\n"
TABLE = f"{HEADER}0.png,train,a,0,0\n1.png,train,b,1,1\n2.png,test,a,2,0\n3.png,test,b,0,1\n"
LABELS = Path("labels.csv")


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module, four pictures of 5x3 px and their labels, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("toy.py").write_text(USER_MODULE)
    LABELS.write_text(TABLE)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(256, size=(3, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{number}.png")
    Path("sub").mkdir()
    Path("link.png").symlink_to("1.png")


# --- labels


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TABLE, "", "lacks column 'image'; it has []"),
        ("image,", "file,", "lacks column 'image'; it has ['file', 'split',"),
        (",split,", ",Split,", "lacks column 'split'; it has ['image', 'Split',"),
        (",group,", ",person,", "has the columns ['person', 'shape', 'tint']; needed are two, one per task"),
        (TABLE, "image,split,tint\n", "has the columns ['tint']; needed are two, one per task"),
        (TABLE, HEADER, "no row is of split 'train'; units are ranked on train, tested on test images"),
        (",test,", ",train,", "no row is of split 'test'"),
        ("1.png,train", "1.png,tran", "line 3: split is 'tran': did you mean 'train'?"),
        ("a,2,0", "a,round,0", "line 4: shape is 'round': a class is the index of its logit, an integer from 0"),
        ("b,1,1", "b,1,-1", "line 3: tint is '-1': a class"),
        ("b,1,1", "b,1,0.5", "line 3: tint is '0.5': a class"),
        ("b,1,1", "b,1,inf", "line 3: tint is 'inf': a class"),
        ("2.png", "7.png", "line 4: image is '7.png': no such file; paths are relative to the table"),
        ("3.png", "", "line 5: image is '': no such file"),
        ("3.png", "./1.png", "line 5: image is './1.png': it is among the train images too; test on images held out"),
        ("3.png", "sub/../1.png", "line 5: image is 'sub/../1.png': it is among the train images too"),
        ("3.png", "link.png", "line 5: image is 'link.png': it is among the train images too"),
        ("1.png", "1.png" + "x" * 300, "cannot be looked for (File name too long); mend its path or permissions"),
        (",tint", ", shape ", "several columns are called 'shape'. Give each a name of its own"),
        (",group,", ",image,", "several columns are called 'image'"),
        ("b,1,1", "b,1,1,", "line 3: cells: 6, in the header: 5. Give every row as many cells as the header has"),
        ("1.png,train,b,1,1", "1.png,train", "line 3: cells: 2, in the header: 5"),
        ("1.png", "1.png" + "x" * 200_000, "line 3: field larger than field limit (131072). Write one row to a line"),
        ("1.png", "1\0.png", "no text in UTF-8 (byte 48 is 0x00). Save it as CSV in UTF-8"),
        ("3.png,test,b", "3.png,test,", "line 5: group is '': name whom or what each test image shows, or leave"),
    ],
)
def test_tables_that_cannot_be_used(old: str, new: str, message: str) -> None:
    assert old in TABLE
    LABELS.write_text(TABLE.replace(old, new))
    with pytest.raises(StudyError, match=f"^labels.csv.*{re.escape(message)}"):
        read_labels(LABELS, size=4)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (LABELS.unlink, "no such file. It has a row per image: image, split, and a column per task"),
        (lambda: LABELS.unlink() or LABELS.mkdir(), "no such file. It has a row per image"),
        (lambda: LABELS.write_text(TABLE, encoding="utf-16"), "no text in UTF-8 (byte 0 is 0xff)"),
        (lambda: LABELS.write_text(f"{TABLE}Zo\u00eb", encoding="latin-1"), "no text in UTF-8 (byte 101 is 0xeb)"),
        (lambda: truncate(LABELS), "larger than 64 MiB"),
    ],
)
def test_files_that_are_no_tables(harm: Callable[[], object], message: str) -> None:
    harm()
    with pytest.raises(StudyError, match=f"^labels.csv: {re.escape(message)}"):
        read_labels(LABELS, size=4)


def truncate(path: Path, size: int = 2**33) -> None:
    """A sparse file of that size."""
    with path.open("ab") as file:
        file.truncate(size)


def test_labels_and_images_are_those_of_the_table() -> None:
    """Columns by name, blank lines and spaces aside; classes as pandas writes them in columns with empty cells."""
    lines = ["image, tint ,split,shape", "3.png,1,test,2.0", "", "1.png,0,train,", " 2.png, ,test ,0"]
    LABELS.write_text("\n".join(lines), encoding="utf-8-sig")
    train, test, people = read_labels(LABELS, size=11)
    assert people is None and train.tasks == test.tasks == ("tint", "shape")
    assert {task: classes.tolist() for task, classes in train.classes.items()} == {"tint": [0], "shape": [-1]}
    assert {task: classes.tolist() for task, classes in test.classes.items()} == {"tint": [1, -1], "shape": [2, 0]}
    images = test.images(np.array([1, 0, 1]))
    assert images.shape == (3, 3, 11, 11) and images.dtype == torch.float32
    stored = torch.from_numpy(np.stack([np.asarray(Image.open(f"{number}.png")) for number in (2, 3, 2)]))
    resized = nn.functional.interpolate(stored.permute(0, 3, 1, 2).float(), (11, 11), mode="bilinear", antialias=True)
    torch.testing.assert_close(images * 255, resized, atol=1, rtol=0)  # Pillow rounds along rows, then columns


def test_people_are_those_of_the_test_images() -> None:
    LABELS.write_text(TABLE.replace("train,b", "train,"))
    assert read_labels(LABELS, size=4).people.to_list() == ["a", "b"]


def test_images_are_beside_the_table_and_opened_when_needed() -> None:
    LABELS.rename("sub/labels.csv")
    with pytest.raises(StudyError, match=r"^sub/labels.csv, line 2: image is '0.png': no such file"):
        read_labels(Path("sub/labels.csv"), size=4)
    for picture in Path().glob("?.png"):
        picture.rename(Path("sub") / picture.name)
    train, _, _ = read_labels(Path("sub/labels.csv"), size=4)
    Path("sub/1.png").unlink()
    assert train.images(np.array([0])).shape == (1, 3, 4, 4)
    with pytest.raises(StudyError, match=r"^sub/1.png: not a readable image \(No such file"):
        train.images(np.array([1]))


# --- pictures


@pytest.mark.parametrize(
    ("mode", "colour", "pixel"), [("L", 51, (0.2, 0.2, 0.2)), ("RGBA", (255, 102, 0, 255), (1.0, 0.4, 0.0))]
)
def test_any_mode_becomes_rgb(mode: str, colour: object, pixel: tuple[float, ...]) -> None:
    Image.new(mode, (4, 6), colour).save("0.png")
    (image,) = read_labels(LABELS, size=3).train.images(np.array([0]))
    torch.testing.assert_close(image, torch.tensor(pixel)[:, None, None].expand(3, 3, 3))


def refuse_picture() -> str:
    with pytest.raises(StudyError) as error:
        read_labels(LABELS, size=4).train.images(np.array([0, 1]))
    message, remedy = str(error.value).split("). ")
    assert remedy == "Save it anew, or take its row out."
    return message


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:50]), "truncated or damaged"),
        (lambda file: file.write_text("no picture"), "not a JPEG, PNG, BMP, TIFF, PGM, GIF or WebP picture"),
        (
            lambda file: Image.new("F", (3, 5), 0.5).save(file, "TIFF"),
            "pixels that are fractions, of unknown range",
        ),
        (truncate, "larger than 64 MiB"),
    ],
)
def test_pictures_that_cannot_be_used(harm: Callable[[Path], object], reason: str) -> None:
    harm(Path("1.png"))
    assert refuse_picture().startswith(f"1.png: not a readable image ({reason}")


def test_pictures_with_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 14)
    assert refuse_picture() == "0.png: not a readable image (more pixels than any face"


@pytest.mark.parametrize("kind", ["EPS", "ICO"])
def test_other_formats_are_refused_and_start_no_program(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Pillow runs Ghostscript, from PATH, for files that begin as EPS does, whatever their name."""
    program = Path("bin/gs").absolute()
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {Path('it_ran').absolute()}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
    Image.new("RGB", (5, 3)).save("1.png", kind)
    assert refuse_picture() == "1.png: not a readable image (not a JPEG, PNG, BMP, TIFF, PGM, GIF or WebP picture"
    assert not Path("it_ran").exists()
    if kind == "EPS":
        with pytest.raises(Exception, match=r"."), Image.open("1.png") as picture:
            picture.load()
        assert Path("it_ran").exists(), "this Pillow starts no program: the test proves nothing"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("labels.csv", "labels.csv: may not be read. Change its permissions."),
        ("1.png", "1.png: not a readable image (Permission denied). Save it anew"),
    ],
)
def test_files_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    """Root may read all files, so that the system's refusal is simulated."""
    original = Path.open

    def open_file(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_file)
    with pytest.raises(StudyError, match=f"^{re.escape(message)}"):
        read_labels(LABELS, size=4).train.images(np.array([1]))


# --- networks
