"""A model with its loss, optimizer and validation metric, as a Lightning module."""

import math
import re
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from counterpoint.data.dataset import Dataset
from counterpoint.data.loading import Batch
from counterpoint.data.tracks import Track, Tracks
from counterpoint.distributed import rank, total, world_size
from counterpoint.errors import Error
from counterpoint.evaluation.metrics import GlobalAveragePrecision
from counterpoint.models.categorizer import Categorizer
from counterpoint.recipes import Training
from counterpoint.training.batch_share import SINGLE, BatchShare, draw_for_all
from counterpoint.training.probe import positive_weights

GAP = "validation_gap"
MAPS = re.compile(r"\.influences\..*(maps\.\d+|nearby)\.weight$")
"""The parameters of F with a learning rate of their own. F's biases and its map of the tower's output keep the common
rate: they are in units of weights, some hundredths, and a few steps at the larger rate would close its ReLUs for good.
"""
WARMUP = 500  # steps
VALIDATION = 1  # a number in the seed of validation's random streams, unlike those of training


class Learner(lightning.LightningModule):
    """A model, its loss and the validation metric by which the best epoch is chosen.

    Training draws its random numbers from a stream of the seed and the step alone, so that a resumed training goes on
    bit for bit. Several processes share each batch, and their gradients' mean is the whole batch's gradient.
    """

    monitor: str
    """The name under which the validation metric is logged; higher is better."""

    def __init__(self, model: nn.Module, training: Training) -> None:
        super().__init__()
        self.model = model
        self.settings = training
        self.share = BatchShare(rank(), world_size())
        if not self.share.is_single:
            draw_for_all(model, self.share)
        self._loss_sum = (0.0, 0)  # of the epoch's clips, and how many they are, up to the last call of `epoch_loss`
        # (2,) the same of each step since then; they stay on the device, so that no step waits for them.
        self._step_losses: list[Tensor] = []
        self._validation_sum = (0.0, 0)
        self.average: dict[str, Tensor] = {}
        """The moving average of the weights, where the recipe has one."""
        self.improvements = 0
        """Epochs that were better than all before them, by `counterpoint.training.selection`."""

    def loss(self, batch: Batch, share: BatchShare = SINGLE) -> Tensor:
        """The batch's loss; in one of several processes scaled so that their mean is the whole batch's loss."""
        raise NotImplementedError

    def compile_model(self) -> None:
        """Let `torch.compile` make the kernels of what the loss calls; weights and their names stay."""
        self.model.compile(dynamic=True)  # batches are as long as their longest clip

    def on_train_epoch_start(self) -> None:
        self._loss_sum = (0.0, 0)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._draw_from(batch_idx)
        if self.settings.schedule == "cosine":
            self._set_rate(self.trainer.global_step, int(self.trainer.estimated_stepping_batches))

    def _set_rate(self, step: int, steps: int) -> None:
        """The learning rate of a step: it depends on nothing else, so that a resumed training goes on with it."""
        warmup = min(WARMUP, max(1, steps // 10))
        share = min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / max(steps, 1))) / 2
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * share

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if not self.settings.averaging:
            return
        # Early steps count less: the average begins with what has been learned, not with what was drawn.
        step = self.trainer.global_step
        keep = min(self.settings.averaging, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self._averaged_weights().items():
                if name in self.average:
                    self.average[name].lerp_(value, 1 - keep)
                else:
                    self.average[name] = value.clone()

    def _averaged_weights(self) -> dict[str, Tensor]:
        return {name: each.detach() for name, each in self.model.named_parameters() if each.requires_grad}

    def on_validation_start(self) -> None:
        self._swap()

    def on_validation_end(self) -> None:
        self._swap()

    def _swap(self) -> None:
        """Put the average in the weights' place, and these in its."""
        for name, value in self._averaged_weights().items():
            if name in self.average:
                weights = value.clone()
                value.copy_(self.average[name])
                self.average[name].copy_(weights)

    def kept_weights(self) -> dict[str, Tensor]:
        """The model's state with the average in the weights' place: what is kept of an epoch."""
        state = self.model.state_dict() | self.average
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._draw_from(batch_idx * self.share.world_size + self.share.rank, VALIDATION)

    def _draw_from(self, *number: int) -> None:
        """Seed the random numbers of a batch, by its number among the batches of all processes."""
        # Mixed into 32 bits, since a CPU's generator ignores those above them.
        stream = np.random.SeedSequence((self.settings.seed, self.trainer.current_epoch, *number))
        torch.manual_seed(int(stream.generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.share.whole = batch.whole
        tracks = self.share.padded_to_longest(batch.tracks)
        tracks = drop_modalities(tracks, self.settings.modality_dropout, self.share)
        loss = self.loss(batch._replace(tracks=tracks), self.share)
        clips = loss.new_tensor(batch.whole).float()
        self._step_losses.append(torch.stack([loss.detach().float() * batch.whole, clips]))
        return loss

    def epoch_loss(self) -> tuple[float, int]:
        """The sum of the losses of the epoch's clips so far, and how many they are; all processes call it together."""
        if self._step_losses:
            sums = torch.stack(self._step_losses).cpu().double().sum(0).tolist()
            self._step_losses = []
            loss, clips = (value / self.share.world_size for value in total(*sums))
            self._loss_sum = (self._loss_sum[0] + loss, self._loss_sum[1] + round(clips))
        return self._loss_sum

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.trainer.is_last_batch:
            loss, clips = self.epoch_loss()
            self.log("train_loss", loss / clips, on_step=False, on_epoch=True, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_loss"] = self.epoch_loss()
        if self.average:
            checkpoint["average"] = self.average

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._loss_sum = tuple(checkpoint["epoch_loss"])
        self.average = {name: each.to(self.device) for name, each in checkpoint.get("average", {}).items()}

    def add_validation_loss(self, batch: Batch, loss: Tensor) -> None:
        """Add a validation batch's mean loss to the epoch's."""
        clips = len(batch.ids)
        so_far, count = self._validation_sum
        self._validation_sum = (so_far + (loss.item() * clips if clips else 0.0), count + clips)

    def on_validation_epoch_end(self) -> None:
        loss, clips = total(*self._validation_sum)
        self._validation_sum = (0.0, 0)
        self.log("validation_loss", loss / max(clips, 1))

    def configure_optimizers(self) -> Any:
        settings = self.settings
        trained = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {
                "params": [parameter for name, parameter in trained if bool(MAPS.search(name)) is of_influence],
                "lr": settings.learning_rate * scale,
            }
            for of_influence, scale in ((False, 1.0), (True, settings.influence_lr_scale))
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = torch.optim.Adam(groups, weight_decay=settings.weight_decay, fused=True)
        if settings.schedule == "cosine":
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
            return optimizer
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=settings.factor, patience=settings.patience, threshold=0.0
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor}}

    def on_train_epoch_end(self) -> None:
        # Here, and not where Lightning does: that is after the epoch's checkpoint, which would not include the step.
        # It watches the count of better epochs: that rises where, and only where, an epoch is the best so far.
        if self.settings.schedule == "plateau":
            self.lr_schedulers().step(float(self.improvements))  # type: ignore[union-attr,arg-type]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Nothing; see `on_train_epoch_end`."""


class CategorizationLearner(Learner):
    """Trains a categorizer by binary cross-entropy per category, monitored by GAP over the 20 best predictions.

    See sections 4.2 and 4.3 of the paper.
    """

    monitor = GAP

    def __init__(self, model: Categorizer, training: Training) -> None:
        super().__init__(model, training)
        self.gap = GlobalAveragePrecision(top=20)
        self.positive_weight: Tensor | None = None

    def weigh(self, data: Dataset) -> None:
        """Let a true category count more the rarer it is, by the recipe's ``balance``; validation counts all alike."""
        labels = np.stack([data[i][1] > 0 for i in range(len(data))])
        self.positive_weight = torch.from_numpy(positive_weights(labels, self.settings.balance)).float()

    def loss(self, batch: Batch, share: BatchShare = SINGLE) -> Tensor:
        logits = self.model(batch.tracks).logits
        weight = None if self.positive_weight is None else self.positive_weight.to(logits.device)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), batch.labels.float(), pos_weight=weight)
        return loss if share.is_single else loss * (len(batch.ids) * share.world_size / share.whole)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        clips = len(batch.ids)
        logits = self.model(batch.tracks).logits.float()
        check_finite(logits)
        self.add_validation_loss(batch, functional.binary_cross_entropy_with_logits(logits, batch.labels.float()))
        self.gap.update(logits[:clips], batch.labels[:clips])
        self.log(GAP, self.gap, batch_size=clips)


def check_finite(scores: Tensor) -> None:
    """Raise Error where a model's scores are infinite or NaN: its training cannot recover."""
    if not scores.isfinite().all():
        raise Error("the training has diverged (scores are not finite); lower --training.learning_rate")


def drop_modalities(tracks: Tracks, probability: float, share: BatchShare = SINGLE) -> Tracks:
    """Mask one modality, chosen evenly, of each clip with a probability, as if it had never been recorded."""
    if not probability:
        return tracks
    masks = [track.mask for track in tracks.values()]
    batch, device = masks[0].shape[0] if share.is_single else share.whole, masks[0].device
    dropped = torch.rand(batch, device=device) < probability
    which = torch.randint(len(masks), (batch,), device=device)
    return {
        name: Track(track.features, track.mask & ~share.local_rows(dropped & (which == i)).unsqueeze(1))
        for i, (name, track) in enumerate(tracks.items())
    }
