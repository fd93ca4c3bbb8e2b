"""The words of other data sets are those of the study, or none."""

from __future__ import annotations

import pytest

from facespec.data.words import (
    EXPRESSION_WORDS,
    VIEW_WORDS,
    find_misspelling,
    parse_expression,
    parse_split,
    parse_view,
)
from facespec.study.vocabulary import EXPRESSIONS, VIEWS


def test_no_word_has_two_meanings() -> None:
    for table, names in ((EXPRESSION_WORDS, EXPRESSIONS), (VIEW_WORDS, VIEWS)):
        words = [word for synonyms in table.values() for word in synonyms]
        assert len(words) == len(set(words)) and set(table) == set(names)
        assert all(name.value in synonyms for name, synonyms in table.items())


@pytest.mark.parametrize(
    ("word", "expression"),
    [
        *(("anger", "angry"), ("Happiness", "happy"), ("SADNESS", "sad"), ("surprised", "surprise")),
        *(("afraid", "fear"), ("disgusted", "disgust"), ("NE", "neutral"), ("Joy", "happy")),
        *((word, None) for word in ("contempt", "", "3", "anxious")),
    ],
)
def test_expressions(word: str, expression: str | None) -> None:
    assert parse_expression(word, {}) == expression


def test_words_of_the_user_come_first() -> None:
    words = {"HA": "sad", "3": "happy", "090": "straight"}
    assert [parse_expression(word, words) for word in ("HA", "3", "ha", "090")] == ["sad", "happy", "happy", None]
    assert [parse_view(word, words) for word in ("090", "HL", "full left", "front", "3")] == [
        *("straight", "half_left", "full_left", "straight", None)
    ]


def test_splits_and_misspellings() -> None:
    assert [parse_split(word) for word in ("Train", "validation", "PrivateTest", "holdout")] == [
        *("train", "test", "test", None)
    ]
    assert [find_misspelling(word) for word in ("hapy", "surpise", "contempt", "x")] == ["happy", "surprise", "", ""]
