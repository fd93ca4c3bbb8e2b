"""Which pictures are tested where a data set has no splits? Whole groups: videos, shootings, people stay undivided."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from facespec.study.vocabulary import TEST, TRAIN


def draw_splits(classes: Sequence[str], groups: Sequence[str], *, share: float, key: bytes) -> list[str | None]:
    """The split of every picture: of each class, whole groups are tested until they hold a `share` of its pictures.

    `classes` and `groups` name the class and the group of every picture; a group may hold several classes. The last
    group of a class always stays in ``train``. None for pictures of a class that has one group only. The order in which
    groups are drawn depends on `key` and their names alone.

    >>> draw_splits(["a", "a", "a", "b"], ["1", "1", "2", "3"], share=0.5, key=b"")
    ['train', 'train', 'test', None]
    """
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for name, group in zip(classes, groups, strict=True):
        members[group][name] += 1
    sizes = Counter(classes)
    remaining = Counter(name for counts in members.values() for name in counts)
    single = {name for name, n in remaining.items() if n < 2}
    quotas = {name: max(1, round(share * n)) for name, n in sizes.items() if name not in single}
    tested: set[str] = set()
    for group in sorted(members, key=lambda group: hashlib.sha256(key + group.encode()).digest()):
        counts = {name: n for name, n in members[group].items() if name not in single}
        if any(quotas[name] > 0 for name in counts) and all(remaining[name] > 1 for name in counts):
            tested.add(group)
            for name, n in counts.items():
                quotas[name] -= n
                remaining[name] -= 1
    return [
        None if name in single else TEST if group in tested else TRAIN
        for name, group in zip(classes, groups, strict=True)
    ]
