from __future__ import annotations

import pytest

from facespec.study.errors import StudyError, did_you_mean
from facespec.study.vocabulary import EXPRESSIONS


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("hapy", "did you mean 'happy'? Allowed: 'happy', 'sad', 'fear'."),
        ("Sad", "did you mean 'sad'? Allowed: 'happy', 'sad', 'fear'."),
        ("joyful", "Allowed: 'happy', 'sad', 'fear'."),
        ("", "Allowed: 'happy', 'sad', 'fear'."),
    ],
)
def test_the_nearest_word_comes_first_if_any_is_near(word: str, sentence: str) -> None:
    assert did_you_mean(word, iter(["happy", "sad", "fear"])) == sentence


def test_words_of_the_vocabulary_are_spelled_as_users_write_them() -> None:
    """Not as members of an enumeration."""
    assert did_you_mean("surprised", map(str, EXPRESSIONS)).startswith("did you mean 'surprise'? Allowed: 'angry', ")


def test_library_users_may_catch_a_value_error() -> None:
    with pytest.raises(ValueError, match="what to do"):
        raise StudyError("what to do")
