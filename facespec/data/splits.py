"""Which images are held out, and which subsets are drawn? From a table of labels to row indices, without images.

The choice depends on the names of the stimuli and the generator, never on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from facespec.study.errors import StudyError
from facespec.study.params import Split
from facespec.study.vocabulary import EXPRESSIONS


def hold_out(labels: pd.DataFrame, rule: Split, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `labels` to fit on and to test on: two sorted, disjoint int64 arrays that cover all rows.

    ``cell``: one image of every identity x expression cell is tested [O, D: 70 x 7 = 490 of KDEF's 4,900]; the image
    of a cell that has only one is fitted, so that every class of either task is in the fit.
    ``session``: all images of `rule.session` are tested.
    ``people``: all images of a share `rule.people` of the people are tested, of at least one and not of all.
    Raises `StudyError` where labels that the rule needs are empty, or one side would be.
    """
    if rule.hold_out == "cell":
        _require_labels(labels, "identity", "expression")
        cells = (rows for _, rows in _iterate_groups(labels, ["identity", "expression"]) if len(rows) > 1)
        test = np.array([rows[generator.integers(len(rows))] for rows in cells], dtype=np.int64)
    elif rule.hold_out == "session":
        _require_labels(labels, "session")
        test = np.flatnonzero(labels["session"] == rule.session)
    else:
        _require_labels(labels, "identity")
        n_people = labels["identity"].nunique()
        n = max(1, min(round(rule.people * n_people), n_people - 1))
        test = np.flatnonzero(labels["identity"].isin(draw_people(labels, n, generator)))
    train = np.setdiff1d(np.arange(len(labels)), test)
    if not len(test) or not len(train):
        raise StudyError(
            f"split.hold_out {rule.hold_out!r} leaves {len(train)} images to fit and {len(test)} to test: "
            "choose another rule in params.yaml, or faces that differ in what it holds out."
        )
    return train.astype(np.int64), np.sort(test).astype(np.int64)


def draw_balanced_subset(
    labels: pd.DataFrame, column: str, per_value: int, generator: np.random.Generator
) -> np.ndarray:
    """Sorted rows of `labels` with `per_value` images of every value of `column`, drawn without replacement.

    Raises `StudyError` for a value with fewer images, or empty labels.
    """
    _require_labels(labels, column)
    subset = []
    for value, rows in _iterate_groups(labels, [column]):
        if len(rows) < per_value:
            raise StudyError(f"{column} {value!r} has {len(rows)} images; {per_value} of each are needed.")
        subset.append(generator.permutation(rows)[:per_value])
    return np.sort(np.concatenate(subset))


def draw_people(labels: pd.DataFrame, n: int, generator: np.random.Generator) -> tuple[str, ...]:
    """The names of `n` different people of `labels`, sorted."""
    _require_labels(labels, "identity")
    people = sorted(set(labels["identity"]))
    if n > len(people):
        raise StudyError(f"{n} people are needed, the labels know {len(people)}.")
    return tuple(people[i] for i in np.sort(generator.permutation(len(people))[:n]))


def draw_images(labels: pd.DataFrame, at_most: int, generator: np.random.Generator) -> np.ndarray:
    """Sorted rows of `labels`: `at_most` different images, or all of them if there are fewer."""
    _require_labels(labels)
    rows = labels.reset_index(drop=True).sort_values("stimulus").index.to_numpy(dtype=np.int64)
    return np.sort(generator.permutation(rows)[:at_most])


def encode_classes(labels: pd.DataFrame, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The class of every row, int64 (n,), and the names that the codes index.

    Expressions are always all seven, in the order of `study.vocabulary`, so that every network numbers them alike;
    other names are sorted. Raises `StudyError` for empty labels and for an expression without an image.
    """
    _require_labels(labels, column)
    present = set(labels[column])
    if column == "expression":
        names = tuple(expression.value for expression in EXPRESSIONS)
        if missing := [name for name in names if name not in present]:
            raise StudyError(f"no image shows {', '.join(map(repr, missing))}: the study needs all seven expressions.")
    else:
        names = tuple(sorted(present))
    return pd.Index(names).get_indexer(pd.Index(labels[column])).astype(np.int64), names


def _iterate_groups(labels: pd.DataFrame, columns: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Each combination of values, sorted, with its rows ordered by stimulus name."""
    ordered = labels.reset_index(drop=True).sort_values([*columns, "stimulus"])
    for value, group in ordered.groupby(columns, sort=True):
        yield " x ".join(map(str, value)), group.index.to_numpy(dtype=np.int64)


def _require_labels(labels: pd.DataFrame, *columns: str) -> None:
    if labels.empty:
        raise StudyError("no images to choose from.")
    for column in columns:
        empty = labels[column].isna() | (labels[column] == "")
        if empty.any():
            first = labels["stimulus"][empty].iloc[0]
            raise StudyError(
                f"{int(empty.sum())} of {len(labels)} images have no {column} (first: {first!r}); this choice needs it."
            )
