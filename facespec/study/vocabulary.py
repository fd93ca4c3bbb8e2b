"""Which words does the study use? Tasks, roles, networks, expressions, views, sessions.

All rooms use these names; the numeric codes of a data set are used in its adapter only.
"""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    """A property of a face that a network classifies."""

    EXPRESSION = "expression"
    IDENTITY = "identity"


class Role(StrEnum):
    """What a set of faces is for: training one of the tasks, or probing both."""

    EXPRESSION = "expression"
    IDENTITY = "identity"
    PROBE = "probe"


class Expression(StrEnum):
    """The seven expressions shared by FER2013 and KDEF (there: afraid = fear, angry, disgusted, ...)."""

    ANGRY = "angry"
    DISGUST = "disgust"
    FEAR = "fear"
    HAPPY = "happy"
    NEUTRAL = "neutral"
    SAD = "sad"
    SURPRISE = "surprise"


class View(StrEnum):
    """The five camera positions around a probe face; left and right as in KDEF's file names (FL HL S HR FR)."""

    FULL_LEFT = "full_left"
    HALF_LEFT = "half_left"
    STRAIGHT = "straight"
    HALF_RIGHT = "half_right"
    FULL_RIGHT = "full_right"


class Network(StrEnum):
    """What a network was trained on; the untrained one, the trunk that all of a seed start from, is a control."""

    EXPRESSION = "expression"
    IDENTITY = "identity"
    JOINT = "joint"
    UNTRAINED = "untrained"

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks this network has a head for."""
        return (Task(self.value),) if self.value in tuple(Task) else tuple(Task)


TASKS = tuple(Task)
ROLES = tuple(Role)
NETWORKS = (Network.EXPRESSION, Network.IDENTITY, Network.JOINT)  # those that are trained
PAIRS = tuple((network, task) for network in Network for task in network.tasks)  # every head of every network
EXPRESSIONS = tuple(Expression)
VIEWS = tuple(View)
SESSIONS = ("A", "B")
TRAIN, TEST = "train", "test"
EMBEDDED_NAME = "embedded faces"  # the source, in tables and figures, of faces that facespec draws
