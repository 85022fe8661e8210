"""Training and validation clips for Lightning."""

from functools import partial
from typing import Any

import lightning

from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.loading import ClipLoader, EpochSampler, RoundRobinSampler, ShardedSampler


class DataModule(lightning.LightningDataModule):
    """Batches of training and validation clips, read from their shards.

    Args:
        train: clips to train on.
        validation: clips to tune and stop on.
        batch_size: clips in a batch, of all processes together; in validation of each, in turns.
        max_steps: longer clips are cut.
        workers: processes that read ahead; 0 reads in the training process.
        rank, world_size: which of how many processes this one is.
    """

    def __init__(
        self,
        train: Dataset,
        validation: Dataset,
        features: FeatureSet,
        *,
        batch_size: int,
        max_steps: int,
        workers: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.train = train
        self.validation = validation
        self.train_sampler = ShardedSampler(EpochSampler(train.lengths, batch_size, seed), rank, world_size)
        self.validation_sampler = RoundRobinSampler(len(validation), batch_size, rank, world_size)
        self._loader = partial(ClipLoader, features=features, max_steps=max_steps, workers=workers, keep=True)

    def train_dataloader(self) -> ClipLoader:
        return self._loader(self.train, self.train_sampler)

    def val_dataloader(self) -> ClipLoader:
        return self._loader(self.validation, self.validation_sampler)

    def state_dict(self) -> dict[str, Any]:
        """Seed, epoch and position: a few bytes, whatever the number of clips."""
        assert self.trainer is not None
        return self.train_sampler.state(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.train_sampler.go_on(state)
