"""The words of the study, and their order."""

from __future__ import annotations

import pickle
from enum import StrEnum

import pytest

from facespec.study import vocabulary
from facespec.study.vocabulary import EXPRESSIONS, NETWORKS, ROLES, SESSIONS, TASKS, TEST, TRAIN, VIEWS, Network, Task


def test_the_order_of_words() -> None:
    """The order of tasks and expressions numbers heads, branches and classes in checkpoints."""
    assert list(TASKS) == ["expression", "identity"]
    assert list(ROLES) == ["expression", "identity", "probe"]
    assert list(NETWORKS) == ["expression", "identity", "joint"]
    assert list(EXPRESSIONS) == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert list(VIEWS) == ["full_left", "half_left", "straight", "half_right", "full_right"]
    assert (SESSIONS, TRAIN, TEST) == (("A", "B"), "train", "test")


@pytest.mark.parametrize(
    ("network", "tasks"),
    [
        ("expression", ["expression"]),
        ("identity", ["identity"]),
        ("joint", ["expression", "identity"]),
        ("untrained", ["expression", "identity"]),
    ],
)
def test_the_tasks_of_a_network(network: str, tasks: list[str]) -> None:
    assert list(Network(network).tasks) == tasks
    assert all(isinstance(task, Task) for task in Network(network).tasks)


def test_words_are_plain_texts() -> None:
    """They may be written, compared, pickled, and used as keys."""
    types = [value for value in vars(vocabulary).values() if isinstance(value, type) and issubclass(value, StrEnum)]
    assert len(types) == 6  # with StrEnum itself, which has no members
    for word in (word for each in types for word in each):
        assert f"{word}" == word.value == word
        assert {word.value: 1}[word] == 1
        assert pickle.loads(pickle.dumps(word)) is word
