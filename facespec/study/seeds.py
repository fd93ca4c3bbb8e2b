"""Where does randomness begin? Only here: every random stream has a name, made of the study's seed and some labels.

Because a stream depends on its name alone, adding another stream never changes it.
"""

from __future__ import annotations

import hashlib

import numpy as np


def seed_sequence(seed: int, *labels: str | int) -> np.random.SeedSequence:
    """Return the seed sequence of the stream named by `seed` and `labels`; the same on every platform.

    Labels are joined by a separator and hashed, so that ``("ab",)`` and ``("a", "b")`` name different streams.
    """
    name = "\x1f".join(f"{type(label).__name__}:{label}" for label in labels)
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.SeedSequence([seed, *np.frombuffer(digest[:16], dtype="<u4").tolist()])


def generator(seed: int, *labels: str | int) -> np.random.Generator:
    """Open the random stream named by `seed` and `labels`.

    Parameters
    ----------
    seed : int
        At least 0; usually one of the seeds in ``params.yaml``.
    *labels : str or int
        What the numbers are drawn for. Their types count: ``1`` and ``"1"`` name different streams.

    Returns
    -------
    numpy.random.Generator
        A PCG64 generator at the start of the stream; equal arguments give equal numbers on every platform.

    Examples
    --------
    >>> generator(7, "faces", 2).integers(0, 1000, 5).tolist()
    [972, 871, 479, 110, 218]
    """
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, *labels)))


def integer_seed(seed: int, *labels: str | int) -> int:
    """Return a 63-bit seed, for libraries that take an integer, such as `torch.Generator.manual_seed`."""
    return int(seed_sequence(seed, *labels).generate_state(1, np.uint64)[0] >> np.uint64(1))
