from __future__ import annotations

import pickle
from enum import StrEnum

import pytest

from facespec.study import vocabulary
from facespec.study.vocabulary import EXPRESSIONS, NETWORKS, ROLES, SESSIONS, TASKS, TEST, TRAIN, VIEWS, Network, Task


def test_the_words_of_the_study() -> None:
    """The order of tasks and expressions numbers heads, branches and classes in checkpoints."""
    assert list(TASKS) == ["expression", "identity"]
    assert list(ROLES) == ["expression", "identity", "probe"]
    assert list(NETWORKS) == ["expression", "identity", "joint"]
    assert list(EXPRESSIONS) == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert list(VIEWS) == ["full_left", "half_left", "straight", "half_right", "full_right"]
    assert (SESSIONS, TRAIN, TEST) == (("A", "B"), "train", "test")


@pytest.mark.parametrize(
    ("network", "tasks"),
    [("expression", ["expression"]), ("identity", ["identity"]), ("joint", ["expression", "identity"])],
)
def test_what_a_network_knows(network: str, tasks: list[str]) -> None:
    known = Network(network).tasks
    assert list(known) == tasks
    assert all(isinstance(task, Task) for task in known)


def test_words_are_plain_texts() -> None:
    """They may be written, compared, and used as keys as they stand."""
    enums = [
        own
        for own in vars(vocabulary).values()
        if isinstance(own, type) and issubclass(own, StrEnum) and own is not StrEnum
    ]
    assert len(enums) == 5
    for word in (word for own in enums for word in own):
        assert f"{word}" == word.value == word
        assert {word.value: 1}[word] == 1
        assert pickle.loads(pickle.dumps(word)) is word
