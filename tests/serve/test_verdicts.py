"""Answers of a model that is unsure, for a clip unlike its training clips, with a tower no better than chance."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import counterpoint
from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.run import RunFolder
from counterpoint.serve import serializers
from serve.conftest import SIZES, TAXONOMY, Served, serving


@pytest.fixture(scope="module")
def server(doubtful_run: RunFolder) -> Iterator[Served]:
    with serving(doubtful_run.folder) as served:
        yield served


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doubtful")
    FeatureSet(SIZES, "synthetic").save(folder)
    random = np.random.default_rng(0)
    tracks = {name: random.integers(1, 256, (4, size), np.uint8) for name, size in SIZES.items()}
    with Writer(folder / "clip.tfrecord") as writer:
        writer.write(encode(Clip("clip", np.zeros(0, np.int64), tracks)))
    return folder / "clip.tfrecord"


def test_the_api_and_its_client_give_the_doubts(server: Served, shard: Path) -> None:
    with counterpoint.Client(server.url) as client:
        answer = client.categorize(shard)
        assert answer.unsure
        assert answer.unlike
        assert {one.name: one.threshold for one in answer.categories} == {
            "Dessert": 0.99,
            "Food": 0.98,
            "Soup": 0.97,
            "Sport": 0.96,
            "Ball": 0.95,
        }
        assert answer.correlation == {}
        explained = client.explain(answer.job)
        assert (explained.correlation, explained.per_second) == ({}, {})
        assert client.about.tower
        assert client.about.tower_auc is not None
        assert client.about.tower_auc.model_dump() == {"value": 0.53, "low": 0.44, "high": 0.62, "pairs": 60}


def test_an_unknown_reliability_is_no_doubt(record_run: RunFolder) -> None:
    assert serializers.tower_auc(record_run) is None
    answer = serializers.best(record_run, np.linspace(0.1, 0.5, len(TAXONOMY)), 1)
    assert [(one.name, one.threshold) for one in answer] == [("Ball", 0.5)]


def test_a_category_that_was_never_trained_is_not_listed(record_run: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, record_run.recipe, record_run.labelling, record_run.features)
    run.save_untrained(["ball"])
    assert [one.name for one in serializers.best(run, np.linspace(0.5, 0.9, 5), 9)] == [
        "Sport",
        "Soup",
        "Food",
        "Dessert",
    ]
