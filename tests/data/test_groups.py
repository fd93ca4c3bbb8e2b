"""Splits are drawn by group: no group is divided, every class keeps a group to learn from."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from facespec.data.groups import draw_splits

names = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12345678")), min_size=1, max_size=40)


@given(names, st.sampled_from([0.1, 0.3, 0.5]), st.binary(max_size=4))
def test_no_group_is_divided_and_every_class_keeps_a_group(
    pictures: list[tuple[str, str]], share: float, key: bytes
) -> None:
    classes, groups = zip(*pictures, strict=True)
    splits = draw_splits(classes, groups, share=share, key=key)
    of_group, of_class = defaultdict(set), defaultdict(set)
    for name, group, split in zip(classes, groups, splits, strict=True):
        of_class[name].add(split)
        if split is not None:
            of_group[group].add(split)
    assert all(len(sides) == 1 for sides in of_group.values())
    for name, sides in of_class.items():
        single = len({group for one, group in pictures if one == name}) == 1
        assert sides == {None} if single else "train" in sides
    assert splits == draw_splits(classes, groups, share=share, key=key)


@given(st.permutations(range(24)), st.binary(max_size=4))
def test_a_fifth_of_single_pictures_is_tested_whatever_their_order(order: list[int], key: bytes) -> None:
    """Of 4 and 20 pictures, 1 and 4."""
    classes = ["few" if i < 4 else "many" for i in range(24)]
    straight = draw_splits(classes, [str(i) for i in range(24)], share=0.2, key=key)
    shuffled = draw_splits([classes[i] for i in order], [str(i) for i in order], share=0.2, key=key)
    assert [straight[i] for i in order] == shuffled
    assert (straight[:4].count("test"), straight[4:].count("test")) == (1, 4)


def test_the_split_of_a_class_does_not_depend_on_others_and_the_key_decides() -> None:
    groups = [f"v{i}" for i in range(9)]
    alone = draw_splits(["a"] * 9, groups, share=0.3, key=b"1")
    together = draw_splits(["a"] * 9 + ["b"] * 5, [*groups, *"vwxyz"], share=0.3, key=b"1")
    assert together[:9] == alone
    assert len({tuple(draw_splits(["a"] * 9, groups, share=0.3, key=bytes([key]))) for key in range(9)}) > 3
