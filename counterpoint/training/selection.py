"""The rule that decides which epoch is kept, when the learning rate falls and when training stops.

An epoch is better than another by its validation metric (GAP, a tower's AUC) rounded to four digits; of equal ones the
smaller validation loss is better, since a metric of few or easy clips is soon at its limit while the loss still falls.
With fewer than `FEW_CLIPS` validation clips the loss alone decides.
"""

from dataclasses import asdict, dataclass
from typing import Any

FEW_CLIPS = 100


def in_words(metric: str, value: float) -> str:
    """A validation metric as it is printed: GAP as the error in percent, like all tables of errors.

    >>> in_words("validation_gap", 0.8435), in_words("auc", 0.8435)
    ('GAP error 15.65 %', 'AUC 0.8435')
    """
    name = metric.removeprefix("validation_").upper()
    return f"GAP error {100 * (1 - value):.2f} %" if name == "GAP" else f"{name} {value:.4f}"


@dataclass
class Selection:
    """The best epoch so far.

    Attributes:
        by_loss: whether the validation loss alone decides.
        epoch: the best epoch, from 1; 0 before the first.
        metric, loss: its validation metric and loss.
        improvements: how many epochs were better than all before them.
        waited: how many epochs have ended since the best one.
    """

    by_loss: bool = False
    epoch: int = 0
    metric: float = float("-inf")
    loss: float = float("inf")
    improvements: int = 0
    waited: int = 0

    def update(self, epoch: int, metric: float, loss: float) -> bool:
        """Add the figures of an epoch; whether it is better than all before it.

        >>> selection = Selection()
        >>> [selection.update(*each) for each in ((1, 1.0, 0.07), (2, 1.0, 0.02), (3, 0.99, 0.01))], selection.epoch
        ([True, True, False], 2)
        """
        if better := self._key(metric, loss) > self._key(self.metric, self.loss):
            self.epoch, self.metric, self.loss = epoch, metric, loss
            self.improvements += 1
            self.waited = 0
        else:
            self.waited += 1
        return better

    def _key(self, metric: float, loss: float) -> tuple[float, ...]:
        return (-loss,) if self.by_loss else (round(metric, 4), -loss)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)
