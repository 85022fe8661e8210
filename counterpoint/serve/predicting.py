"""One model for all requests: clips that wait while it computes are its next batch."""

import asyncio
import contextlib
import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from counterpoint.data.clip import Clip
from counterpoint.data.loading import collate
from counterpoint.run import Run, accelerator, moved

BATCH = 32  # clips


class Said(NamedTuple):
    """What the model says of a clip."""

    probabilities: Float[np.ndarray, "category"]
    """No category is more probable than its parent."""
    correlation: dict[str, float]
    """By pair of modalities."""


class Predictor:
    """Batches whatever asks at the same time; used as a context.

    Nobody waits for company: while the model works on a batch, the next one gathers.

    Args:
        run: whose model it is.
        observe: is called with the size of each batch.
    """

    def __init__(self, run: Run, observe: Callable[[int], object] = lambda clips: None) -> None:
        self.run = run
        self.observe = observe
        device = accelerator()
        model = run.categorizer()
        self._model = model if device.type == "cpu" else copy.deepcopy(model).to(device)
        self._device = device
        self._waiting: asyncio.Queue[tuple[Clip, asyncio.Future[Said]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "predictor")

    async def __aenter__(self) -> "Predictor":
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown()

    async def predict(self, clip: Clip) -> Said:
        """What the model says of a clip of its features."""
        future: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((clip, future))
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            self.observe(len(batch))
            try:
                said = await loop.run_in_executor(self._thread, self.predict_all, [clip for clip, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), one in zip(batch, said, strict=True):
                if not future.done():  # nobody waits any more
                    future.set_result(one)

    def predict_all(self, clips: Sequence[Clip]) -> list[Said]:
        """The same for several clips at once; codes and floats are read apart."""
        said: dict[int, Said] = {}
        kinds: dict[frozenset[str], list[int]] = {}  # by the modalities whose features are floats
        for number, clip in enumerate(clips):
            floats = frozenset(name for name, track in clip.tracks.items() if track.dtype != np.uint8)
            kinds.setdefault(floats, []).append(number)
        for numbers in kinds.values():
            said |= zip(numbers, self._predict([clips[number] for number in numbers]), strict=True)
        return [said[number] for number in range(len(clips))]

    def _predict(self, clips: Sequence[Clip]) -> list[Said]:
        nothing = np.zeros(len(self.run.labelling.taxonomy), bool)
        batch = collate([(clip, nothing) for clip in clips], self.run.features, self.run.recipe.max_steps)
        with torch.inference_mode():
            output = self._model(moved(batch.tracks, self._device))
        told = output.correlation.probability if output.correlation else {}
        pairs = {" and ".join(pair): probability.tolist() for pair, probability in told.items()}
        return [
            Said(probabilities, {pair: values[number] for pair, values in pairs.items()})
            for number, probabilities in enumerate(self.run.probabilities(output.logits))
        ]
