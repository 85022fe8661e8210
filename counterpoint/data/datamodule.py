"""Training and validation clips for Lightning."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning

from counterpoint.data.dataset import ClipDataset, ClipLoader, EpochSampler, collate
from counterpoint.data.features import FeatureSet


class ClipDataModule(lightning.LightningDataModule):
    """Batches of training and validation clips, read from their shards.

    Args:
        train: clips to train on.
        validation: clips to tune and stop on.
        batch_size: clips in a batch.
        max_steps: longer clips are cut.
        workers: processes that read ahead; 0 reads in the training process.
    """

    def __init__(
        self,
        train: ClipDataset,
        validation: ClipDataset,
        features: FeatureSet,
        *,
        batch_size: int,
        max_steps: int,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train = train
        self.validation = validation
        self._order = EpochSampler(train.lengths, batch_size, seed)
        self._loader: Mapping[str, Any] = {
            "batch_size": batch_size,
            "collate_fn": partial(collate, features=features, max_steps=max_steps),
            "num_workers": workers,
            "persistent_workers": workers > 0,
        }

    def train_dataloader(self) -> ClipLoader:
        return ClipLoader(self.train, sampler=self._order, **self._loader)

    def val_dataloader(self) -> ClipLoader:
        return ClipLoader(self.validation, **self._loader)
