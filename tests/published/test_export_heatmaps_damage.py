from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespec.published.export_heatmaps import check_heatmap_results, read_heatmap_results
from facespec.study.errors import StudyError
from facespec.study.pickles import write_pickle

A, B, C, D = (f"Fig2{panel}_dict.pickle" for panel in "ABCD")
FACE, MAP = np.linspace(0, 255, 7 * 5 * 3).reshape(7, 5, 3), np.linspace(0, 1, 7 * 5).reshape(7, 5)
NAME = "BF01-happy-straight"
GOOD: dict[str, Any] = {
    A: dict.fromkeys(["avg_img", "SPLIT Expression", "exp", "SPLIT id", "id"], FACE),
    B: dict.fromkeys(["SPLIT expression", "exp", "SPLIT id", "id"], MAP.ravel()),
    C: {"avg_img": FACE, "SPLIT expression": MAP, "SPLIT id": MAP},
    D: {NAME: {model: {"heatmap": MAP[:3, :2], "img": FACE} for model in ("SPLIT", "exp")}},
}


@pytest.mark.parametrize("file", GOOD)
def test_good_content_comes_through_unchanged(file: str) -> None:
    np.testing.assert_equal(check_heatmap_results(file, GOOD[file]), GOOD[file])


def replaced(content: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy in which `value` stands where `path` leads; None takes the entry out."""
    if not path:
        return value
    rest = {key: item for key, item in content.items() if key != path[0]}
    new = replaced(content.get(path[0]), path[1:], value)
    return rest if new is None else {**content, path[0]: new}


SPOILT = [
    (A, ("SPLIT Expression",), None, ": lacks key 'SPLIT Expression'; it has ['SPLIT id', 'avg_img', 'exp', 'id']."),
    (
        A,
        ("SPLIT expresion",),
        FACE,
        ": unknown key 'SPLIT expresion'; did you mean 'SPLIT Expression'? Allowed: "
        "'avg_img', 'SPLIT Expression', 'exp', 'SPLIT id', 'id'.",
    ),
    (A, ("id",), MAP, ", key 'id': expected an array (H, W, 3) of numbers, got float64 of shape (7, 5)."),
    (A, ("id",), FACE[..., :2], ", key 'id': expected an array (H, W, 3) of numbers, got float64 of shape (7, 5, 2)."),
    (A, ("exp",), FACE[:6], ", key 'exp': its size is (6, 5), that of 'avg_img' is (7, 5)."),
    (A, ("exp",), np.full((7, 5, 3), 255.5), ", key 'exp': got 255.5, allowed: numbers in [0, 255]."),
    (A, (), [FACE], ": expected a dict of arrays, got list."),
    (B, ("SPLIT expression",), None, ": lacks key 'SPLIT expression'; it has ['SPLIT id', 'exp', 'id']."),
    (B, ("id",), MAP, ", key 'id': expected an array (n,) of numbers, got float64 of shape (7, 5)."),
    (B, ("id",), [0.5], ", key 'id': expected an array (n,) of numbers, got list."),
    (B, ("id",), np.array([]), ", key 'id': expected an array (n,) of numbers, got float64 of shape (0,)."),
    (B, ("id",), np.array([True]), ", key 'id': expected an array (n,) of numbers, got bool of shape (1,)."),
    (B, ("id",), np.array([0.5, np.nan, 2]), ", key 'id': got nan, allowed: numbers in [0, 1]."),
    (B, ("id",), np.array([0, -1]), ", key 'id': got -1, allowed: numbers in [0, 1]."),
    (C, ("SPLIT id",), MAP[:, :4], ", key 'SPLIT id': its size is (7, 4), that of 'avg_img' is (7, 5)."),
    (C, ("SPLIT id",), MAP * 0 + 1.5, ", key 'SPLIT id': got 1.5, allowed: numbers in [0, 1]."),
    (C, ("exp",), MAP, ": unknown key 'exp'; Allowed: 'avg_img', 'SPLIT expression', 'SPLIT id'."),
    (C, ("avg_img",), MAP, ", key 'avg_img': expected an array (H, W, 3) of numbers, got float64 of shape (7, 5)."),
    (D, (), [], ": expected a dict of images, got list."),
    (D, (), {}, ": holds no image; at least 1 is needed."),
    (D, (NAME,), 3, f", image '{NAME}': expected a dict of networks, got int."),
    (D, (NAME, "SPLIT"), None, f", image '{NAME}': lacks key 'SPLIT'; it has ['exp']."),
    (D, (NAME, "exp", "heatmap"), None, f", image '{NAME}', key 'exp': lacks key 'heatmap'; it has ['img']."),
    (
        D,
        (NAME, "exp", "heatmap"),
        MAP * 0 + 1.5,
        f", image '{NAME}', key 'exp', 'heatmap': got 1.5, allowed: numbers in [0, 1].",
    ),
    (
        D,
        (NAME, "SPLIT", "img"),
        MAP,
        f", image '{NAME}', key 'SPLIT', 'img': expected an array (H, W, 3) of numbers, got float64 of shape (7, 5).",
    ),
]


@pytest.mark.parametrize("file, path, value, message", SPOILT)
def test_spoilt_content_is_refused_by_name(
    file: str, path: tuple[str, ...], value: Any, message: str, tmp_path: Path
) -> None:
    content = replaced(GOOD[file], path, value)
    with pytest.raises(StudyError) as error:
        check_heatmap_results(file, content)
    assert str(error.value) == f"{file}{message}"
    write_pickle(tmp_path / file, content)
    with pytest.raises(StudyError) as error:
        read_heatmap_results(tmp_path)
    assert str(error.value) == f"{tmp_path}: {file}{message}"


def test_unknown_file() -> None:
    with pytest.raises(StudyError) as error:
        check_heatmap_results("Fig2E_dict.pickle", {})
    assert str(error.value) == (
        "Fig2E_dict.pickle: not one of the published heatmap files; did you mean 'Fig2D_dict.pickle'? Allowed: "
        "'Fig2A_dict.pickle', 'Fig2B_dict.pickle', 'Fig2C_dict.pickle', 'Fig2D_dict.pickle'."
    )


def test_bounds_and_other_numeric_types_are_allowed() -> None:
    bounds = np.array([0, 1], dtype=np.float32)
    assert check_heatmap_results(B, dict.fromkeys(GOOD[B], bounds))["exp"] is bounds
    whole = dict.fromkeys(GOOD[A], np.full((2, 3, 3), 255, dtype=np.uint8))
    assert check_heatmap_results(A, whole) == whole
