"""A chunk that fits is passed on with its labels checked; `test_faceset.py` holds what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from facespec.data.chunks import FaceChunk, check_chunk
from facespec.study.errors import StudyError
from facespec.study.tables import LABELS

LABELLED = pd.DataFrame(
    {"session": "B", "view": "", "expression": ["fear", ""], "identity": "", "split": "test", "stimulus": ["x", "y"]}
)


@pytest.mark.parametrize("shape", [(17, 11), (17, 11, 3)])
def test_labels_come_back_in_order(shape: tuple[int, ...]) -> None:
    checked = check_chunk(FaceChunk(np.zeros((2, *shape), np.uint8), LABELLED), shape, None)
    pd.testing.assert_frame_equal(checked, LABELLED[list(LABELS.columns)])


def test_every_region_code_may_occur_and_none_must() -> None:
    regions = np.zeros((2, 17, 11), np.uint8)
    regions[1, 3, 4] = 255
    images = np.zeros((2, 17, 11, 3), np.uint8)
    codes = {"none": 0, "hair": 255, "beard": 9}
    assert len(check_chunk(FaceChunk(images, LABELLED, regions), (17, 11, 3), codes)) == 2
    with pytest.raises(StudyError) as caught:
        check_chunk(FaceChunk(images, LABELLED, regions), (17, 11, 3), {"none": 0})
    assert str(caught.value) == "regions hold [255], which the region codes {'none': 0} do not name."


@pytest.mark.parametrize("text", ["\x00", "a\nb", "tab\t", "\x7f", "\ud800"])
@pytest.mark.parametrize("column", ["stimulus", "identity", "session"])
def test_a_text_that_a_table_cannot_carry_is_refused(text: str, column: str) -> None:
    chunk = FaceChunk(np.zeros((2, 17, 11), np.uint8), LABELLED.assign(**{column: ["fine", text]}))
    with pytest.raises(StudyError) as caught:
        check_chunk(chunk, (17, 11), None)
    assert str(caught.value) == f"{column} {text!r} holds a control character or an undecodable byte. Rename it."


@pytest.mark.parametrize("text", [" ", "é", 'Zoë O\'Brien-顔, "x"', "~"])
def test_any_other_text_passes(text: str) -> None:
    chunk = FaceChunk(np.zeros((2, 17, 11), np.uint8), LABELLED.assign(stimulus=["fine", text]))
    assert check_chunk(chunk, (17, 11), None)["stimulus"].tolist() == ["fine", text]
