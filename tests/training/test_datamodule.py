from pathlib import Path

import torch

from counterpoint.data.features import FeatureSet
from counterpoint.data.loading import Batch, EpochSampler
from counterpoint.training.datamodule import DataModule

from .world import SIZES, clips, dataset, write

FEATURES = FeatureSet(SIZES)


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    data = dataset(write(tmp_path / "a.tfrecord", *clips(10)))
    runs: list[list[Batch]] = []
    for workers in (0, 1, 2):
        module = DataModule(data, data, FEATURES, batch_size=4, max_steps=5, workers=workers, seed=3)
        loader = module.train_dataloader()
        module.train_sampler.sampler.set_epoch(1)
        runs.append(list(loader))
    assert [len(made.ids) for made in runs[0]] == [4, 4, 2]
    order = EpochSampler(data.lengths, 4, seed=3)
    order.set_epoch(1)
    assert [name for made in runs[0] for name in made.ids] == [f"clip{i:03}" for i in order]
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert one.ids == two.ids
            assert torch.equal(one.labels, two.labels)
            for name in SIZES:
                assert torch.equal(one.tracks[name].features, two.tracks[name].features)
                assert torch.equal(one.tracks[name].mask, two.tracks[name].mask)


def test_validation_is_in_order(tmp_path: Path) -> None:
    data = dataset(write(tmp_path / "a.tfrecord", *clips(10)))
    module = DataModule(data, data, FEATURES, batch_size=4, max_steps=5)
    assert [name for made in module.val_dataloader() for name in made.ids] == [f"clip{i:03}" for i in range(10)]
