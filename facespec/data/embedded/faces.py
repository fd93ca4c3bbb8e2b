"""How does a notebook draw and render a few faces, with given numbers of people and given expressions?

`stimuli.replace_expressions` and `stimuli.replace_people` change one thing about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from facespec.data.embedded.production import render
from facespec.data.embedded.roles import draw_studio
from facespec.data.embedded.stimuli import Stimuli, replace_expressions
from facespec.study.errors import StudyError
from facespec.study.vocabulary import EXPRESSIONS, SESSIONS, Expression, View

Bytes = npt.NDArray[np.uint8]


def draw_stimuli(
    n_people: int,
    expressions: Sequence[Expression | str] = EXPRESSIONS,
    *,
    generator: np.random.Generator,
    hair: Literal["cap", "own"] = "cap",
) -> Stimuli:
    """Draw people who show the same expressions, seen from the front in a studio as the probe faces.

    Stimuli of one person differ in nothing but the expression: scene, noise, intensity, style and idle movements are
    drawn once per person. Women come first, then men (``F01``, ``F02``, ..., ``M01``, ...).

    Parameters
    ----------
    n_people : int
        Number of people, at least 1.
    expressions : sequence of str
        Different names of `facespec.study.vocabulary.EXPRESSIONS`; by default all seven.
    generator : numpy.random.Generator
        The source of all random numbers.
    hair : {"cap", "own"}
        ``"cap"``: all hair is under the same cap; ``"own"``: everybody has hair of their own. The faces are the same.

    Returns
    -------
    Stimuli
        ``n_people * len(expressions)`` stimuli, sorted by person, named ``<identity>-<expression>``.

    Raises
    ------
    StudyError
        For fewer than one person, and for unknown, repeated or no expressions.

    See Also
    --------
    render_stimuli : render the images.
    facespec.data.embedded.stimuli.replace_expressions : change only the expressions.
    facespec.data.embedded.stimuli.replace_people : change only the identities.

    Examples
    --------
    >>> stimuli = draw_stimuli(2, ["neutral", "happy"], generator=np.random.default_rng(0))
    >>> stimuli.labels[["stimulus", "identity", "expression", "view"]].to_numpy().tolist()[1]
    ['F01-happy', 'F01', 'happy', 'straight']
    """
    names = [str(name) for name in expressions]
    if n_people < 1 or not names or len(set(names)) < len(names):
        raise StudyError(
            f"{n_people} people with the expressions {names}; give at least one person and one or more different "
            "expressions."
        )
    people = draw_studio(
        n_people, generator, sessions=SESSIONS[:1], expressions=[Expression.NEUTRAL], views=[View.STRAIGHT], hair=hair
    )
    rows = np.repeat(np.arange(n_people), len(names))
    stimuli = replace_expressions(people.take(rows), names * n_people)
    labels = stimuli.labels.assign(stimulus=stimuli.labels["identity"] + "-" + stimuli.labels["expression"])
    return replace(stimuli, labels=labels)


def render_stimuli(stimuli: Stimuli, *, size: int = 64, channels: int = 1) -> tuple[Bytes, Bytes]:
    """Render stimuli and the maps of their facial regions.

    Each image depends on its own stimulus only, and has the same bytes on every platform.

    Parameters
    ----------
    stimuli : Stimuli
        n stimuli.
    size : int
        Height and width in pixels, 32 to 512.
    channels : {1, 3}
        1 for grey, 3 for RGB.

    Returns
    -------
    images : array of uint8 of shape (n, size, size), or (n, size, size, 3) for RGB
    regions : array of uint8 of shape (n, size, size)
        The region of every pixel, in codes of `facespec.data.embedded.canvas.REGIONS`.

    Raises
    ------
    StudyError
        For another size or number of channels.

    Examples
    --------
    >>> from facespec.data.embedded.canvas import REGIONS
    >>> neutral = draw_stimuli(1, ["neutral"], generator=np.random.default_rng(0))
    >>> images, regions = render_stimuli(neutral, size=48)
    >>> images.shape, images.dtype.name, bool((regions == REGIONS["mouth"]).any())
    ((1, 48, 48), 'uint8', True)
    >>> surprised, _ = render_stimuli(replace_expressions(neutral, ["surprise"]), size=48)
    >>> bool((surprised != images).any()), bool((surprised != images)[regions == REGIONS["clothes"]].any())
    (True, False)
    """
    return render(stimuli, range(len(stimuli)), size=size, channels=channels)
