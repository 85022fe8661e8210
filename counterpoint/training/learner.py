"""What a model learns: its loss and its validation metric, as a Lightning module."""

from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from counterpoint.data.dataset import Batch
from counterpoint.errors import CounterpointError
from counterpoint.evaluation.metrics import GlobalAveragePrecision
from counterpoint.models.categorizer import Categorizer
from counterpoint.models.track import Track, Tracks
from counterpoint.recipes import Training

GAP = "validation_gap"


class Learner(lightning.LightningModule):
    """A model, its loss and the validation figure that it is watched by.

    Training draws its random numbers from a stream of the seed and the step alone, so that a resumed training goes on
    bit for bit.
    """

    monitor: str
    """The logged figure that says how good the model is; higher is better."""

    def __init__(self, model: nn.Module, training: Training) -> None:
        super().__init__()
        self.model = model
        self.settings = training

    def loss(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Mixed into 32 bits, since a CPU's generator ignores those above them.
        stream = np.random.SeedSequence((self.settings.seed, self.trainer.current_epoch, batch_idx))
        torch.manual_seed(int(stream.generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        tracks = drop_modalities(batch.tracks, self.settings.modality_dropout)
        loss = self.loss(batch._replace(tracks=tracks))
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.ids), sync_dist=True)
        return loss

    def configure_optimizers(self) -> Any:
        settings = self.settings
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=settings.factor, patience=settings.patience
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor}}

    def on_train_epoch_end(self) -> None:
        # Here, not where Lightning does: that is after the epoch's checkpoint, so that a resumed training lacks it.
        self.lr_schedulers().step(self.trainer.callback_metrics[self.monitor])  # type: ignore[union-attr,arg-type]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Nothing; see above."""


class CategorizationLearner(Learner):
    """Learns categories: binary cross-entropy per category, watched by GAP over the 20 best (sections 4.2 and 4.3)."""

    monitor = GAP

    def __init__(self, model: Categorizer, training: Training) -> None:
        super().__init__(model, training)
        self.gap = GlobalAveragePrecision(top=20)

    def loss(self, batch: Batch) -> Tensor:
        logits = self.model(batch.tracks).logits
        return functional.binary_cross_entropy_with_logits(logits.float(), batch.labels.float())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self.model(batch.tracks).logits.float()
        loss = functional.binary_cross_entropy_with_logits(logits, batch.labels.float())
        check_finite(logits)
        self.log("validation_loss", loss, batch_size=len(batch.ids), sync_dist=True)
        self.gap.update(logits, batch.labels)
        self.log(GAP, self.gap, batch_size=len(batch.ids))


def check_finite(scores: Tensor) -> None:
    """Raise CounterpointError where a model's answers are no numbers any more: nothing mends such a model."""
    if not scores.isfinite().all():
        raise CounterpointError("the training has diverged (scores are not finite); lower --training.learning_rate")


def drop_modalities(tracks: Tracks, share: float) -> Tracks:
    """Take one modality, chosen evenly, from a random ``share`` of the clips, as if it had never been recorded."""
    if not share:
        return tracks
    masks = [track.mask for track in tracks.values()]
    batch, device = masks[0].shape[0], masks[0].device
    dropped = torch.rand(batch, device=device) < share
    which = torch.randint(len(masks), (batch,), device=device)
    return {
        name: Track(track.features, track.mask & ~(dropped & (which == i)).unsqueeze(1))
        for i, (name, track) in enumerate(tracks.items())
    }
