"""The one error a user meets: what was given, what is allowed, how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StudyError(ValueError):
    """Input, a file or a setting that facespec refuses; the message says how to mend it.

    The command line prints the message alone (exit status 2); library users may catch it as `ValueError`.
    """


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """The allowed words as a sentence, the nearest spelling first: ``did you mean 'x'? Allowed: 'x', 'y'.``"""
    options = list(allowed)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Allowed: {', '.join(map(repr, options))}."
