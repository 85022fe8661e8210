"""Copies of clips, by id and by features."""

from pathlib import Path

import numpy as np
import pytest

from counterpoint.data.clip import Clip
from counterpoint.data.copies import Digests
from counterpoint.errors import Error

RANDOM = np.random.default_rng(0)


def clip(id_: str, video: np.ndarray | None, labels: tuple[int, ...] = ()) -> Clip:
    return Clip(id_, np.array(labels, np.int64), {} if video is None else {"video": video})


def digests(*clips: Clip) -> Digests:
    found = Digests()
    for each in clips:
        found.add(each)
    return found


A, B, C = (RANDOM.integers(1, 255, (3, 4), np.uint8) for _ in range(3))


def test_a_copy_has_the_id_or_the_features():
    training = digests(clip("a", A, (1,)), clip("b", B))
    test = digests(clip("a", C), clip("other", B.copy(), (2,)), clip("c", C))
    assert test.within(training).tolist() == [True, True, False]


def test_layout_does_not_matter_and_shape_and_modality_do():
    wide = np.zeros((3, 8), np.uint8)
    wide[:, ::2] = A
    same, turned = clip("x", wide[:, ::2]), clip("y", A.T.copy())
    sound = Clip("z", np.zeros(0, np.int64), {"audio": A})
    assert digests(same, turned, sound).within(digests(clip("a", A))).tolist() == [True, False, False]


def test_clips_without_features_are_no_copies_of_each_other():
    empty = np.zeros((3, 4), np.uint8)
    assert digests(clip("a", None)).within(digests(clip("b", None), clip("c", empty))).tolist() == [False]
    assert digests(clip("a", None), clip("b", empty)).repeated() == (0, 0)


def test_repeated():
    assert digests(clip("a", A), clip("a", B), clip("b", A), clip("c", A)).repeated() == (1, 2)


def test_saved(tmp_path: Path):
    training = digests(clip("a", A), clip("b", B))
    training.save(tmp_path / "x.npz")
    assert digests(clip("a", C), clip("d", C)).within(Digests.load(tmp_path / "x.npz")).tolist() == [True, False]
    (tmp_path / "x.npz").write_bytes(b"no")
    with pytest.raises(Error, match=r"x\.npz: cannot be read"):
        Digests.load(tmp_path / "x.npz")
