"""What a correlation tower learns (Goyal et al., section 3): its losses, hard negatives, validation and calibration."""

from itertools import combinations, zip_longest

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from counterpoint.data.loading import Batch
from counterpoint.data.pairs import allowed, partners
from counterpoint.data.tracks import Track, Tracks
from counterpoint.models.correlation import Pair, Tower, centred, fit_calibration
from counterpoint.recipes import Negatives, Training
from counterpoint.taxonomy import Taxonomy
from counterpoint.training.distributed import Part, collected, most, rank, told
from counterpoint.training.learner import ALONE, Learner, check_finite

AUC = "validation_auc"
FALSE_PAIRS = 5  # for each clip, where a tower is measured or calibrated


class CorrelationLearner(Learner):
    """Learns to tell a clip's own sound from another's."""

    monitor = AUC

    def __init__(self, model: Tower, training: Training, negatives: Negatives, taxonomy: Taxonomy) -> None:
        super().__init__(model, training)
        self.negatives = negatives
        self.top_level = torch.from_numpy(taxonomy.levels == 0)
        self.seen: list[tuple[dict[str, Tensor], Tensor]] = []

    @property
    def tower(self) -> Tower:
        assert isinstance(self.model, Tower)
        return self.model

    def compile_model(self) -> None:
        self.tower.trunk.compile(dynamic=True)

    def loss(self, batch: Batch, part: Part = ALONE) -> Tensor:
        """The mean over pairs of modalities, of the contrastive or the joined loss.

        Several processes each embed their clips and compare those of all.
        """
        batch = batch._replace(tracks=equally_long(batch.tracks, part))
        embeddings = {name: part.gathered(vector) for name, vector in self.tower.embed(batch.tracks).items()}
        there = {name: part.gathered(track.mask.any(1)) for name, track in batch.tracks.items()}
        partner = allowed(part.gathered(batch.labels[:, self.top_level.to(batch.labels.device)]))
        losses = []
        for pair in combinations(sorted(embeddings), 2):
            both = there[pair[0]] & there[pair[1]]
            if not both.any():
                continue
            one, other = embeddings[pair[0]][both], embeddings[pair[1]][both]
            form = self._contrastive if self.tower.comparison.contrastive else self._joined
            losses.append(form(pair, one, other, partner[both][:, both]))
        # Where no clip has two modalities there is nothing to learn: a zero, with zero gradients.
        return torch.stack(losses or [vector.sum() * 0.0 for vector in embeddings.values()]).mean()

    def _contrastive(self, pair: Pair, one: Tensor, other: Tensor, partner: Bool[Tensor, "one other"]) -> Tensor:
        """Each clip finds its other half among all that may be false pairs, both ways round (InfoNCE).

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
        """A partner for each clip: any one or, for a share of clips from some epoch on, the most convincing one."""
        lottery = torch.rand(partner.shape, device=one.device)
        if self.current_epoch >= self.negatives.hard_from:
            with torch.no_grad():
                convincing = self.tower.comparison.scores(pair, one, other)
            hard = torch.rand(len(one), device=one.device) < self.negatives.hard_share
            lottery = torch.where(hard.unsqueeze(1), convincing, lottery)
        return lottery.masked_fill(~partner, -torch.inf).argmax(1)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated(batch, self.loss(batch))
        if batch.ids:
            self.seen.append(embedded(self.tower, batch, self.top_level))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        turns = collected(self.seen)
        self.seen = []
        # The first process measures all of them, in the order that one alone would have seen.
        seen = [batch for turn in zip_longest(*turns) for batch in turn if batch is not None]
        auc, calibration = told(self._measured(seen) if rank() == 0 else None)
        self.log(AUC, auc)
        # In every checkpoint, so that the best epoch's weights come with the calibration they had.
        self.tower.temperature.fill_(calibration[0])
        self.tower.bias.fill_(calibration[1])

    def _measured(self, seen: list[tuple[dict[str, Tensor], Tensor]]) -> tuple[float, tuple[float, float]]:
        """AUC, temperature and bias."""
        scores, true = scored_pairs(self.tower, seen)
        check_finite(scores)
        # From 0 to 1 and in double precision: of others torchmetrics takes the sigmoid, in which large ones are equal.
        scale = (scores - scores.min()).double()
        auc = float(binary_auroc(scale / scale.max().clamp_min(1e-300), true.int(), thresholds=None))
        try:
            # A control that never learns would have all of its gates open, or shut.
            return auc, fit_calibration(scores, true) if self.settings.max_epochs else centred(scores[true])
        except ValueError:
            return auc, (1.0, 0.0)  # nothing is told apart yet


def equally_long(tracks: Tracks, part: Part = ALONE) -> Tracks:
    """Cut to the batch's shortest clip: a true pair's halves are equally long, and a tower that sees where steps are (a
    Transformer's positions, a recurrent network's count) would learn to compare nothing but their lengths.
    """
    there = torch.stack([track.mask for track in tracks.values()]).any(0)
    lengths = (there * torch.arange(1, there.shape[1] + 1, device=there.device)).amax(1)
    shortest = int(lengths[lengths > 0].min()) if there.any() else there.shape[1]
    if not part.alone:
        shortest = -int(most(-shortest)[0])
    return {name: Track(track.features[:, :shortest], track.mask[:, :shortest]) for name, track in tracks.items()}


def embedded(tower: Tower, batch: Batch, top_level: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What `scored_pairs` needs of a batch: embeddings of clips that have every modality, and their top categories."""
    whole = torch.stack([track.mask.any(1) for track in batch.tracks.values()]).all(0)
    embeddings = {name: vector[whole].float().cpu() for name, vector in tower.embed(batch.tracks).items()}
    return embeddings, batch.labels[whole].cpu()[:, top_level]


def scored_pairs(
    tower: Tower, seen: list[tuple[dict[str, Tensor], Tensor]], each: int = FALSE_PAIRS, seed: int = 0
) -> tuple[Float[Tensor, "pair"], Bool[Tensor, "pair"]]:
    """Raw scores of every clip's true pairs and of ``each`` false pairs for each clip, over all pairs of modalities."""
    embeddings = {name: torch.cat([batch[name] for batch, _ in seen]) for name in seen[0][0]}
    index = torch.from_numpy(partners(torch.cat([tops for _, tops in seen]).numpy(), each, seed))
    comparison, device = tower.comparison, tower.bias.device
    scores, true = [], []
    for pair in combinations(sorted(embeddings), 2):
        one, other = embeddings[pair[0]], embeddings[pair[1]]
        for left, right, truth in ((one, other, True), (one[index[:, 0]], other[index[:, 1]], False)):
            agreement = comparison.agreement(pair, left.to(device), right.to(device))
            scores.append(comparison.score(pair, agreement).cpu())
            true.append(torch.full((len(left),), truth))
    return torch.cat(scores), torch.cat(true)
