"""The only place where randomness begins.

Every random stream is named by the study's seed and a few labels, so that adding a stream never shifts another.
"""

from __future__ import annotations

import hashlib

import numpy as np


def seed_sequence(seed: int, *labels: str | int) -> np.random.SeedSequence:
    """The seed sequence of the stream named by `seed` and `labels`; the same on every platform.

    Labels are joined with a separator that cannot be confused (``("ab",)`` and ``("a", "b")`` differ) and hashed.
    """
    name = "\x1f".join(f"{type(label).__name__}:{label}" for label in labels)
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.SeedSequence([seed, *np.frombuffer(digest[:16], dtype="<u4").tolist()])


def generator(seed: int, *labels: str | int) -> np.random.Generator:
    """A numpy generator (PCG64) for the stream named by `seed` and `labels`."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, *labels)))


def integer_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for libraries that want a number (`torch.Generator.manual_seed`, scikit-learn: take modulo)."""
    return int(seed_sequence(seed, *labels).generate_state(1, np.uint64)[0] >> np.uint64(1))
