"""What the tests of responses share."""

from __future__ import annotations

import pytest

from facespec.data.faceset import FaceSet
from toys import write_noise_faces


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """Thirteen noisy faces of 17x17 px in shards of five."""
    return write_noise_faces(tmp_path_factory.mktemp("responses") / "faces")
