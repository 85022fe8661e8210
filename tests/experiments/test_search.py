import csv
from pathlib import Path

import pytest

from counterpoint.experiments.search import Search, best_validation

GIVEN = {"family.hidden": 32, "fusion.hidden": [], "family.clusters": {"video": 2, "audio": 1}}
GRID = {"family.hidden": [8, 16], "fusion.hidden": [[], [4]], "family.clusters": [{"video": 2, "audio": 1}]}


def test_trials_are_points_of_the_grid_and_stay_the_same(tmp_path: Path) -> None:
    first = Search(tmp_path / "nv-l", GRID, 3, GIVEN).trials()
    again = Search(tmp_path / "nv-l", GRID, 10, GIVEN)
    assert again.count == 5  # the recipe as it is, and all four points
    trials = again.trials()
    assert trials[:3] == first
    assert trials[0].settings == {}
    points = [tuple(str(trial.settings[name]) for name in GRID) for trial in trials[1:]]
    assert len(set(points)) == 4
    assert all(trial.settings[name] in values for trial in trials[1:] for name, values in GRID.items())
    assert len({trial.folder for trial in trials}) == 5
    # Another folder has the same trials: they depend on the grid alone.
    assert Search(tmp_path / "other", GRID, 5, GIVEN).trials() == trials


def test_the_recipe_as_it_is_is_tried_once(tmp_path: Path) -> None:
    given = {**GIVEN, "family.hidden": 16, "family.clusters": {"audio": 1, "video": 2}}
    search = Search(tmp_path / "nv-l", GRID, 10, given)
    assert search.count == 4
    tried = [trial.settings for trial in search.trials()]
    assert tried[0] == {}
    assert len(tried) == 4
    assert given not in tried


def test_the_best_is_the_first_of_equals(tmp_path: Path) -> None:
    search = Search(tmp_path / "nv-l", GRID, 4, GIVEN)
    trials = search.trials()
    assert search.best() == {}
    for trial, value in zip(trials, (0.1, 0.3, 0.3, 0.2), strict=True):
        search.save(trial, value)
    search.save(trials[0], 0.1)  # as after a kill between the storage and the file
    assert Search(tmp_path / "nv-l", GRID, 4, GIVEN).best() == trials[1].settings
    assert [result["validation_gap"] for result in search.results()] == [0.1, 0.3, 0.3, 0.2]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_the_storage_is_closed(tmp_path: Path) -> None:
    search = Search(tmp_path / "nv-l", GRID, 4, GIVEN)
    search.save(search.trials()[0], 0.1)
    opened = {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    assert not [path for path in opened if path.startswith(str(tmp_path))]


def test_nothing_to_search(tmp_path: Path) -> None:
    assert Search(tmp_path, GRID, 0, GIVEN).count == 0
    assert Search(tmp_path, {}, 5, {}).count == 1
    assert Search(tmp_path, GRID, 0, GIVEN).best() == {}


def test_best_validation(tmp_path: Path) -> None:
    with (tmp_path / "epochs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["epoch", "validation_gap"], [1, 0.25], [2, 0.5], [3, 0.125]])
    assert best_validation(tmp_path) == pytest.approx(0.5)
