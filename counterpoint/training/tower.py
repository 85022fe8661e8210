"""Training of a correlation tower (Goyal et al., section 3): losses, hard negatives, validation and calibration."""

from itertools import combinations, zip_longest
from typing import Any

import torch
import torch.nn.functional as functional
from jaxtyping import Bool
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from counterpoint.data.loading import Batch
from counterpoint.data.pairs import allowed
from counterpoint.data.tracks import Track, Tracks
from counterpoint.distributed import broadcast, gather, maximum, rank
from counterpoint.evaluation.tower import Embedded, embedded, scored_pairs
from counterpoint.models.correlation import Pair, Tower, centred, fit_calibration
from counterpoint.recipes import Negatives, Training
from counterpoint.taxonomy import Taxonomy
from counterpoint.training.batch_share import SINGLE, BatchShare
from counterpoint.training.learner import Learner, check_finite

AUC = "validation_auc"


class CorrelationLearner(Learner):
    """Trains a tower to separate true pairs of tracks from false ones, monitored by the AUC."""

    monitor = AUC

    def __init__(self, model: Tower, training: Training, negatives: Negatives, taxonomy: Taxonomy) -> None:
        super().__init__(model, training)
        self.negatives = negatives
        self.top_level = torch.from_numpy(taxonomy.levels == 0)
        self.seen: list[Embedded] = []
        self.clips = 0
        """Validation clips that have every modality: so many independent true pairs the AUC was measured on."""

    @property
    def tower(self) -> Tower:
        assert isinstance(self.model, Tower)
        return self.model

    def compile_model(self) -> None:
        self.tower.trunk.compile(dynamic=True)

    def loss(self, batch: Batch, share: BatchShare = SINGLE) -> Tensor:
        """The mean over pairs of modalities, of the contrastive or the joined loss.

        Several processes each embed their clips and compare those of all.
        """
        batch = batch._replace(tracks=equally_long(batch.tracks, share))
        embeddings = {name: share.all_rows(vector) for name, vector in self.tower.embed(batch.tracks).items()}
        present = {name: share.all_rows(track.mask.any(1)) for name, track in batch.tracks.items()}
        partner = allowed(share.all_rows(batch.labels[:, self.top_level.to(batch.labels.device)]))
        losses = []
        for pair in combinations(sorted(embeddings), 2):
            both = present[pair[0]] & present[pair[1]]
            if not both.any():
                continue
            one, other = embeddings[pair[0]][both], embeddings[pair[1]][both]
            form = self._contrastive if self.tower.comparison.contrastive else self._joined
            losses.append(form(pair, one, other, partner[both][:, both]))
        # Where no clip has two modalities there is nothing to learn: a zero, with zero gradients.
        return torch.stack(losses or [vector.sum() * 0.0 for vector in embeddings.values()]).mean()

    def _contrastive(self, pair: Pair, one: Tensor, other: Tensor, partner: Bool[Tensor, "one other"]) -> Tensor:
        """InfoNCE in both directions: each clip's other half among all tracks that may make false pairs with it.

        A negative of weight w counts as w negatives, so its log is added to the score.
        """
        scores = self.tower.comparison.scores(pair, one, other) + self._log_weight(partner)
        truth = torch.arange(len(scores), device=scores.device)
        return (functional.cross_entropy(scores, truth) + functional.cross_entropy(scores.mT, truth)) / 2

    def _log_weight(self, partner: Bool[Tensor, "one other"]) -> Tensor:
        log_weight = torch.full(partner.shape, -torch.inf, device=partner.device)
        log_weight.masked_fill_(partner, torch.tensor(self.negatives.weight).log().item())
        return log_weight.fill_diagonal_(0.0)

    def _joined(self, pair: Pair, one: Tensor, other: Tensor, partner: Bool[Tensor, "one other"]) -> Tensor:
        """Weighted cross-entropy of each true pair and one false pair for each clip that has a partner."""
        clips = partner.any(1).nonzero().squeeze(1)
        chosen = self._mined(pair, one, other, partner)[clips]
        left = torch.cat([one, one[clips]])
        right = torch.cat([other, other[chosen]])
        truth = torch.cat([torch.ones(len(one)), torch.zeros(len(clips))]).to(left)
        weight = torch.where(truth > 0, 1.0, self.negatives.weight)
        scores = self.tower.comparison.score(pair, self.tower.comparison.agreement(pair, left, right))
        return functional.binary_cross_entropy_with_logits(scores, truth, weight)

    def _mined(self, pair: Pair, one: Tensor, other: Tensor, partner: Bool[Tensor, "one other"]) -> Tensor:
        """A partner for each clip: any one or, for a share of clips from some epoch on, the one of highest score."""
        lottery = torch.rand(partner.shape, device=one.device)
        if self.current_epoch >= self.negatives.hard_from:
            with torch.no_grad():
                highest = self.tower.comparison.scores(pair, one, other)
            hard = torch.rand(len(one), device=one.device) < self.negatives.hard_share
            lottery = torch.where(hard.unsqueeze(1), highest, lottery)
        return lottery.masked_fill(~partner, -torch.inf).argmax(1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["validation_clips"] = self.clips

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.clips = checkpoint.get("validation_clips", 0)  # version 0.1 did not store it

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.add_validation_loss(batch, self.loss(batch))
        if batch.ids:
            self.seen.append(embedded(self.tower, batch, self.top_level))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        by_process = gather(self.seen)
        self.seen = []
        # The first process measures all of them, in the order of a single process.
        seen = [batch for turn in zip_longest(*by_process) for batch in turn if batch is not None]
        auc, calibration = broadcast(self._measured(seen) if rank() == 0 else None)
        self.log(AUC, auc)
        # In every checkpoint, so that the best epoch's weights come with the calibration they had.
        self.tower.temperature.fill_(calibration[0])
        self.tower.bias.fill_(calibration[1])

    def _measured(self, seen: list[Embedded]) -> tuple[float, tuple[float, float]]:
        """AUC, temperature and bias."""
        scores, true = scored_pairs(self.tower, seen)
        self.clips = sum(len(batch.tops) for batch in seen)
        check_finite(scores)
        # From 0 to 1 and in double precision: torchmetrics takes the sigmoid of others, where large ones become equal.
        scale = (scores - scores.min()).double()
        auc = float(binary_auroc(scale / scale.max().clamp_min(1e-300), true.int(), thresholds=None))
        try:
            # A control that never learns would have all of its gates open, or shut.
            return auc, fit_calibration(scores, true) if self.settings.max_epochs else centred(scores[true])
        except ValueError:
            return auc, (1.0, 0.0)  # true and false pairs are not separated yet


def equally_long(tracks: Tracks, share: BatchShare = SINGLE) -> Tracks:
    """Cut to the batch's shortest clip.

    A true pair's halves are equally long, and a tower that sees positions (a Transformer) or the number of steps (a
    recurrent network) would learn to compare nothing but lengths.
    """
    present = torch.stack([track.mask for track in tracks.values()]).any(0)
    lengths = (present * torch.arange(1, present.shape[1] + 1, device=present.device)).amax(1)
    shortest = int(lengths[lengths > 0].min()) if present.any() else present.shape[1]
    if not share.is_single:
        shortest = -int(maximum(-shortest)[0])
    return {name: Track(track.features[:, :shortest], track.mask[:, :shortest]) for name, track in tracks.items()}
