"""Splits of few clips: every category in every fold as evenly as it can be, and copies of a clip together."""

import numpy as np
from jaxtyping import Bool, Int, Shaped


def folds(
    labels: Bool[np.ndarray, "clip category"], groups: Shaped[np.ndarray, "clip"], count: int, seed: int = 0
) -> Int[np.ndarray, "clip"]:
    """The fold of each clip, from 0 to ``count`` - 1.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) over groups: the rarest category that is left is
    shared out first, each group to the fold that lacks most of that category.

    Args:
        groups: clips with equal entries are copies, and get one fold.

    >>> labels = np.array([[True, False], [True, False], [False, True], [False, True]])
    >>> sorted(folds(labels, np.arange(4), 2)[:2].tolist()), sorted(folds(labels, np.arange(4), 2)[2:].tolist())
    ([0, 1], [0, 1])
    """
    random = np.random.default_rng(seed)
    _, of = np.unique(groups, return_inverse=True)
    sizes = np.bincount(of)
    members = np.zeros((len(sizes), labels.shape[1]), np.int64)  # (group, category): clips
    np.add.at(members, of, labels.astype(np.int64))
    lack = np.tile(members.sum(0) / count, (count, 1))  # (fold, category): clips that a fold should still get
    room = np.full(count, len(labels) / count)
    fold = np.full(len(sizes), -1)
    while (left := fold < 0).any():
        remaining = members[left].sum(0)
        if not remaining.any():  # groups without a category: by size alone
            for group in random.permutation(np.flatnonzero(left)):
                _place(group, int(np.argmax(room)), fold, lack, room, members, sizes)
            break
        category = int(np.argmin(np.where(remaining > 0, remaining, np.iinfo(np.int64).max)))
        for group in random.permutation(np.flatnonzero(left & (members[:, category] > 0))):
            wanting = np.flatnonzero(lack[:, category] == lack[:, category].max())
            roomiest = wanting[room[wanting] == room[wanting].max()]
            _place(group, int(random.choice(roomiest)), fold, lack, room, members, sizes)
    return fold[of]


def _place(
    group: int,
    to: int,
    fold: Int[np.ndarray, "group"],
    lack: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    room: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    members: Int[np.ndarray, "group category"],
    sizes: Int[np.ndarray, "group"],
) -> None:
    fold[group] = to
    lack[to] -= members[group]
    room[to] -= sizes[group]
