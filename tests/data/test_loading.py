from pathlib import Path

import numpy as np
import pytest
import torch
from training.world import LABELLING, LABELS, SIZES, clip, codes, dataset, write

from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.loading import (
    Batch,
    ClipLoader,
    EpochSampler,
    KeptClips,
    RoundRobinSampler,
    ShardedSampler,
    Share,
    collate,
)
from counterpoint.errors import Error

FEATURES = FeatureSet(SIZES)


# --- batches ----------------------------------------------------------------------------------------------------------


def batch(folder: Path, max_steps: int, features: FeatureSet = FEATURES) -> Batch:
    data = dataset(folder)
    return collate([data[i] for i in range(3)], features, max_steps)


@pytest.mark.parametrize(("max_steps", "steps"), [(300, 4), (3, 3)])
def test_steps_of_a_batch(folder: Path, max_steps: int, steps: int) -> None:
    """To the longest clip, cut at the most."""
    made = batch(folder, max_steps)
    assert list(made.tracks) == ["audio", "video"]
    assert made.tracks["audio"].features.shape == (3, steps, 8)
    assert made.tracks["video"].features.shape == (3, steps, 16)
    assert made.tracks["video"].mask.sum(1).tolist() == [2, min(4, steps), 3]


def test_padding_and_masks(folder: Path) -> None:
    made = batch(folder, 300)
    assert made.ids == ["a", "b", "c"]
    assert made.labels.tolist() == [[1, 0, 1, 0, 0], [1, 1, 0, 1, 1], [0, 0, 0, 0, 0]]
    video, audio = made.tracks["video"], made.tracks["audio"]
    assert video.features.dtype == torch.uint8
    assert video.features[:, :, 0].tolist() == [[1, 1, 0, 0], [7, 7, 7, 7], [1, 1, 1, 0]]
    assert video.mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    # The second clip has no sound at all, the third only one second of it.
    assert audio.features[:, :, 0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [9, 0, 0, 0]]
    assert audio.mask.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_a_modality_that_no_clip_has() -> None:
    items = [(clip("a", [], video=codes(2, 16)), np.zeros(5, np.bool_))]
    made = collate(items, FEATURES, 300)
    assert made.tracks["audio"].features.shape == (1, 2, 8)
    assert not made.tracks["audio"].mask.any()
    assert collate(items, FeatureSet({"audio": 8}), 300).tracks.keys() == {"audio"}


def test_a_silent_second_is_missing() -> None:
    sound = np.array([[1] * 8, [0] * 8, [3] * 8], np.uint8)
    made = collate([(clip("a", [], audio=sound), np.zeros(5, np.bool_))], FEATURES, 300)
    assert made.tracks["audio"].mask.tolist() == [[True, False, True]]


def test_clips_without_tracks_make_a_batch() -> None:
    made = collate([(clip("a", []), np.zeros(5, np.bool_))] * 2, FEATURES, 300)
    assert made.tracks["video"].features.shape == (2, 1, 16)
    assert not made.tracks["video"].mask.any()


def test_floats_of_a_video_level_record() -> None:
    mean = np.full((1, 16), 0.5, np.float32)
    made = collate([(clip("a", [], video=mean), np.zeros(5, np.bool_))], FeatureSet({"video": 16}), 300)
    assert made.tracks["video"].features.dtype == torch.float32
    assert made.tracks["video"].features.tolist() == [[[0.5] * 16]]


@pytest.mark.parametrize("size", [8, 17])
def test_features_of_another_size_name_the_clip(size: int) -> None:
    with pytest.raises(Error) as raised:
        collate([(clip("a", [], video=codes(2, size)), np.zeros(5, np.bool_))], FEATURES, 300)
    assert str(raised.value) == f"clip 'a': track 'video' has features of {size} uint8, not 16 uint8"


def test_features_of_two_types_name_the_clip() -> None:
    shown = [clip("a", [], video=codes(1, 16)), clip("b", [], video=np.zeros((1, 16), np.float32))]
    with pytest.raises(Error, match="clip 'b': track 'video' has features of 16 float32, not 16 uint8"):
        collate([(one, np.zeros(5, np.bool_)) for one in shown], FEATURES, 300)


# --- order ------------------------------------------------------------------------------------------------------------


def test_every_epoch_is_another_permutation() -> None:
    lengths = np.random.default_rng(0).integers(120, 301, 50)
    sampler = EpochSampler(lengths, 4, seed=0)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert list(sampler) == orders[-1]
        assert sorted(orders[-1]) == list(range(50))
    assert len(set(map(tuple, orders))) == 3
    assert list(EpochSampler(lengths, 4, seed=1)) != orders[0]
    assert len(sampler) == 50


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_processes_share_every_batch(world: int) -> None:
    """Each clip is in one process's share and, put together again, batches are those of one process."""
    sampler = EpochSampler(np.random.default_rng(0).integers(120, 301, 53), 10, seed=0)
    sampler.set_epoch(2)
    parts = [list(ShardedSampler(sampler, rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(ShardedSampler(sampler))} == {6}
    together: list[int] = []
    for shares in zip(*parts, strict=True):
        counted = [share.clips[: share.counted] for share in shares]
        assert all(share.clips for share in shares)  # whoever has no part keeps in step with one clip
        assert {share.whole for share in shares} == {sum(map(len, counted))}
        together += [clips[i] for i in range(10) for clips in counted if i < len(clips)]
    assert together == sampler.order().tolist()


@pytest.mark.parametrize("other", [1, 3, 4])
def test_an_epoch_goes_on_in_another_number_of_processes(other: int) -> None:
    lengths = np.random.default_rng(0).integers(120, 301, 53)

    def shares(world: int, epoch: int, state: dict[str, int] | None) -> list[list[Share]]:
        slices = [ShardedSampler(EpochSampler(lengths, 10, seed=0), rank, world) for rank in range(world)]
        for one in slices:
            one.sampler.set_epoch(epoch)
            if state:
                one.go_on(state)
        return [list(batch) for batch in zip(*slices, strict=True)]

    def clips(batches: list[list[Share]]) -> list[int]:
        return [clip for batch in batches for share in batch for clip in share.clips[: share.counted]]

    before = ShardedSampler(EpochSampler(lengths, 10, seed=0), 0, 2)
    before.sampler.set_epoch(1)
    state = before.state(4)
    assert state == {"seed": 0, "epoch": 1, "batches": 4, "clips": 40}
    assert sorted(clips(shares(2, 1, None)[:4]) + clips(shares(other, 1, state))) == list(range(53))
    assert len(clips(shares(other, 2, state))) == 53  # the next epoch is a whole one


@pytest.mark.parametrize(("clips", "world"), [(40, 1), (40, 2), (41, 2), (3, 4), (45, 3)])
def test_processes_take_batches_in_turns(clips: int, world: int) -> None:
    turns = [list(RoundRobinSampler(clips, 10, rank, world)) for rank in range(world)]
    assert len({len(each) for each in turns}) == 1
    batches = [share.clips[: share.counted] for turn in zip(*turns, strict=True) for share in turn if share.counted]
    assert batches == [share.clips for share in RoundRobinSampler(clips, 10)]
    assert [clip for batch in batches for clip in batch] == list(range(clips))


def paper_lengths(clips: int) -> np.ndarray:
    """Uniform in 120 to 300 steps with 15 % at 300, as bytes of records."""
    random = np.random.default_rng(0)
    steps = np.where(random.random(clips) < 0.15, 300, random.integers(120, 301, clips))
    return steps * 1160 + random.integers(40, 80, clips)


@pytest.mark.parametrize(("clips", "most"), [(20_000, 0.03), (2_000, 0.13)])
def test_batches_of_like_length(clips: int, most: float) -> None:
    """Little is padding, where batches of any clips would be a quarter of it; which clips meet differs every epoch."""
    steps = paper_lengths(clips) // 1160
    sampler, batch_size = EpochSampler(paper_lengths(clips), 128, seed=0), 128

    def padding(order: list[int]) -> float:
        longest = sum(steps[order[i : i + batch_size]].max() * len(order[i : i + batch_size]) for i in starts)
        return 1 - steps.sum() / longest

    starts = range(0, clips, batch_size)
    assert padding(list(range(clips))) > 0.25
    together = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert padding(order) < most
        batches = [order[i : i + batch_size] for i in starts]
        together.append({frozenset(batch) for batch in batches})
        # Long and short batches come in any order.
        means = [steps[batch].mean() for batch in batches[:-1]]
        assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.6
    assert not together[0] & together[1]


def test_records_of_one_step_are_not_sorted_by_their_labels() -> None:
    """What differs in their length is how many labels they have: most batches have clips of few and of many."""
    random = np.random.default_rng(0)
    labels = random.integers(1, 20, 12_800)
    order = np.array(list(EpochSampler(4700 + labels, 128, seed=0)))
    spread = labels[order].reshape(-1, 128).mean(1).std()
    assert spread < 0.25 * labels.std()


# --- clips that are kept ----------------------------------------------------------------------------------------------


def loader(data: Dataset, epoch: int, keep: bool) -> ClipLoader:
    sampler = EpochSampler(data.lengths, 4, seed=0)
    sampler.set_epoch(epoch)
    return ClipLoader(data, ShardedSampler(sampler), FEATURES, 300, workers=0, keep=keep)


def one_step_clips(folder: Path, *more: Clip) -> Dataset:
    """Nine clips whose features and labels differ, the last without picture."""
    made = [clip(f"c{i}", [LABELS[i % 3]], audio=codes(1, 8, i + 1), video=codes(1, 16, i + 9)) for i in range(8)]
    return Dataset(
        write(folder / "one.tfrecord", *made, clip("c8", [LABELS[0]], audio=codes(1, 8, 99)), *more), LABELLING
    )


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(
        a.ids == b.ids
        and a.whole == b.whole
        and torch.equal(a.labels, b.labels)
        and all(torch.equal(x, y) for name in SIZES for x, y in zip(a.tracks[name], b.tracks[name], strict=True))
        for a, b in zip(one, other, strict=True)
    )


def test_kept_clips_are_read_once_and_give_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = one_step_clips(tmp_path)
    kept = loader(data, 0, keep=True)
    assert same(list(kept), list(loader(data, 0, keep=False)))
    expected = list(loader(data, 1, keep=False))
    kept.batch_sampler.sampler.set_epoch(1)  # type: ignore[union-attr]
    monkeypatch.setattr(Dataset, "clip", None)  # nothing is read any more
    assert same(list(kept), expected)


def test_clips_are_not_kept_where_one_has_more_steps(tmp_path: Path) -> None:
    data = one_step_clips(tmp_path, clip("long", [LABELS[1]], audio=codes(3, 8, 5), video=codes(3, 16, 6)))
    kept = loader(data, 0, keep=True)
    for _ in range(2):
        assert same(list(kept), list(loader(data, 0, keep=False)))


def test_clips_over_the_limit_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = one_step_clips(tmp_path)
    assert KeptClips.suits(data)
    monkeypatch.setattr(KeptClips, "LIMIT", 9 * (8 + 16 + 5) - 1)
    assert not KeptClips.suits(data)
