"""What a model learns: its loss and its validation metric, as a Lightning module."""

import re
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from counterpoint.data.loading import Batch
from counterpoint.data.tracks import Track, Tracks
from counterpoint.errors import Error
from counterpoint.evaluation.metrics import GlobalAveragePrecision
from counterpoint.models.categorizer import Categorizer
from counterpoint.recipes import Training
from counterpoint.training.distributed import Part, draw_for_all, rank, total, world

GAP = "validation_gap"
ALONE = Part()
MAPS = re.compile(r"\.influences\..*(maps\.\d+|nearby)\.weight$")
"""What of F learns at a rate of its own. Its biases and what it makes of the tower's word do not: they are in units of
weights, some hundredths, and a few steps at that rate would shut its ReLUs for good."""
VALIDATION = 1  # sets its streams apart from training's


class Learner(lightning.LightningModule):
    """A model, its loss and the validation figure that it is watched by.

    Training draws its random numbers from a stream of the seed and the step alone, so that a resumed training goes on
    bit for bit. Several processes share each batch, and their gradients' mean is the whole batch's gradient.
    """

    monitor: str
    """The logged figure that says how good the model is; higher is better."""

    def __init__(self, model: nn.Module, training: Training) -> None:
        super().__init__()
        self.model = model
        self.settings = training
        self.part = Part(rank(), world())
        if not self.part.alone:
            draw_for_all(model, self.part)
        self._before = (0.0, 0)  # the sum of the epoch's losses over clips, and the clips
        self._since: list[Tensor] = []  # (2,) the same of each step: left where they are, so that no step waits for it
        self._validation = (0.0, 0)

    def loss(self, batch: Batch, part: Part = ALONE) -> Tensor:
        """The batch's loss; of a part of a batch, what makes it the mean over the processes."""
        raise NotImplementedError

    def compile_model(self) -> None:
        """Let `torch.compile` make the kernels of what the loss calls; weights and their names stay."""
        self.model.compile(dynamic=True)  # batches are as long as their longest clip

    def on_train_epoch_start(self) -> None:
        self._before = (0.0, 0)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._draw_from(batch_idx)

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._draw_from(batch_idx * self.part.world + self.part.rank, VALIDATION)

    def _draw_from(self, *number: int) -> None:
        """The stream of a batch, by its number among those of all processes."""
        # Mixed into 32 bits, since a CPU's generator ignores those above them.
        stream = np.random.SeedSequence((self.settings.seed, self.trainer.current_epoch, *number))
        torch.manual_seed(int(stream.generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.part.whole = batch.whole
        tracks = drop_modalities(self.part.as_long(batch.tracks), self.settings.modality_dropout, self.part)
        loss = self.loss(batch._replace(tracks=tracks), self.part)
        self._since.append(torch.stack([loss.detach().float() * batch.whole, loss.new_tensor(batch.whole).float()]))
        return loss

    def epoch_loss(self) -> tuple[float, int]:
        """The sum of the losses of the epoch's clips so far, and how many they are; all processes ask at once."""
        if self._since:
            since = torch.stack(self._since).cpu().double().sum(0).tolist()
            self._since = []
            loss, clips = (value / self.part.world for value in total(*since))
            self._before = (self._before[0] + loss, self._before[1] + round(clips))
        return self._before

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.trainer.is_last_batch:
            loss, clips = self.epoch_loss()
            self.log("train_loss", loss / clips, on_step=False, on_epoch=True, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_loss"] = self.epoch_loss()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._before = tuple(checkpoint["epoch_loss"])

    def validated(self, batch: Batch, loss: Tensor) -> None:
        """Add a validation batch's loss."""
        clips = len(batch.ids)
        self._validation = (self._validation[0] + (loss.item() * clips if clips else 0.0), self._validation[1] + clips)

    def on_validation_epoch_end(self) -> None:
        loss, clips = total(*self._validation)
        self._validation = (0.0, 0)
        self.log("validation_loss", loss / max(clips, 1))

    def configure_optimizers(self) -> Any:
        settings = self.settings
        learning = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {
                "params": [parameter for name, parameter in learning if bool(MAPS.search(name)) is hearing],
                "lr": settings.learning_rate * times,
            }
            for hearing, times in ((False, 1.0), (True, settings.influence_lr_scale))
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = torch.optim.Adam(groups, weight_decay=settings.weight_decay, fused=True)
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

    def loss(self, batch: Batch, part: Part = ALONE) -> Tensor:
        logits = self.model(batch.tracks).logits
        loss = functional.binary_cross_entropy_with_logits(logits.float(), batch.labels.float())
        return loss if part.alone else loss * (len(batch.ids) * part.world / part.whole)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        clips = len(batch.ids)
        logits = self.model(batch.tracks).logits.float()
        check_finite(logits)
        self.validated(batch, functional.binary_cross_entropy_with_logits(logits, batch.labels.float()))
        self.gap.update(logits[:clips], batch.labels[:clips])
        self.log(GAP, self.gap, batch_size=clips)


def check_finite(scores: Tensor) -> None:
    """Raise Error where a model's answers are no numbers any more: nothing mends such a model."""
    if not scores.isfinite().all():
        raise Error("the training has diverged (scores are not finite); lower --training.learning_rate")


def drop_modalities(tracks: Tracks, share: float, part: Part = ALONE) -> Tracks:
    """Take one modality, chosen evenly, from a random ``share`` of the clips, as if it had never been recorded."""
    if not share:
        return tracks
    masks = [track.mask for track in tracks.values()]
    batch, device = masks[0].shape[0] if part.alone else part.whole, masks[0].device
    dropped = torch.rand(batch, device=device) < share
    which = torch.randint(len(masks), (batch,), device=device)
    return {
        name: Track(track.features, track.mask & ~part.mine(dropped & (which == i)).unsqueeze(1))
        for i, (name, track) in enumerate(tracks.items())
    }
