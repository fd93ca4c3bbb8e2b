"""Which words do data sets use for expressions, views and splits, and which of the study's words are they?"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from facespec.study.vocabulary import EXPRESSIONS, TEST, TRAIN, VIEWS, Expression, View

# nouns, adjectives, and the short forms of laboratories' file names (KDEF, JAFFE)
EXPRESSION_WORDS: dict[Expression, tuple[str, ...]] = {
    Expression.ANGRY: ("angry", "anger", "an", "ang"),
    Expression.DISGUST: ("disgust", "disgusted", "di", "dis"),
    Expression.FEAR: ("fear", "fearful", "afraid", "scared", "fe", "fea", "af"),
    Expression.HAPPY: ("happy", "happiness", "joy", "joyful", "ha", "hap"),
    Expression.NEUTRAL: ("neutral", "neutrality", "ne", "neu"),
    Expression.SAD: ("sad", "sadness", "sa"),
    Expression.SURPRISE: ("surprise", "surprised", "su", "sur"),
}
VIEW_WORDS: dict[View, tuple[str, ...]] = {
    View.FULL_LEFT: ("full_left", "fl"),
    View.HALF_LEFT: ("half_left", "hl"),
    View.STRAIGHT: ("straight", "frontal", "front", "s"),
    View.HALF_RIGHT: ("half_right", "hr"),
    View.FULL_RIGHT: ("full_right", "fr"),
}
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("test", "testing", "val", "valid", "validation", "publictest", "privatetest"), TEST),
}
_EXPRESSIONS = {word: expression for expression, words in EXPRESSION_WORDS.items() for word in words}
_VIEWS = {word: view for view, words in VIEW_WORDS.items() for word in words}
LIKE = 0.75  # similarity from which a word is taken for a misspelt one


def _normalise(word: str) -> str:
    return "_".join(word.lower().replace("-", " ").replace("_", " ").split())


def parse_expression(word: str, words: Mapping[str, str]) -> Expression | None:
    """The expression that `word` means; `words` are the user's own, looked up first. None for other classes.

    >>> parse_expression("Happiness", {}), parse_expression("x1", {"x1": "sad"}), parse_expression("contempt", {})
    (<Expression.HAPPY: 'happy'>, <Expression.SAD: 'sad'>, None)
    """
    given = words.get(word, "")
    return Expression(given) if given in EXPRESSIONS else _EXPRESSIONS.get(_normalise(word))


def parse_view(word: str, words: Mapping[str, str]) -> View | None:
    """The view that `word` means; `words` are the user's own, looked up first. None for others."""
    given = words.get(word, "")
    return View(given) if given in VIEWS else _VIEWS.get(_normalise(word))


def parse_split(word: str) -> str | None:
    """``train`` or ``test``; None for a word of no split."""
    return SPLIT_WORDS.get(_normalise(word))


def find_misspelling(word: str) -> str:
    """The word for an expression that `word` may be a misspelling of; empty if none is near."""
    long = [known for known in _EXPRESSIONS if len(known) > 3]
    return next(iter(difflib.get_close_matches(_normalise(word), long, n=1, cutoff=LIKE)), "")
