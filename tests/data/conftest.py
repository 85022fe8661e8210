"""Two shards of three clips."""

from pathlib import Path

import pytest
from training.world import clip, codes, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path / "train2.tfrecord",
        clip("a", [11], video=codes(2, 16), audio=codes(2, 8)),
        clip("b", [10, 20], video=codes(4, 16, 7)),
    )
    write(tmp_path / "train10.tfrecord", clip("c", [], video=codes(3, 16), audio=codes(1, 8, 9)))
    return tmp_path
