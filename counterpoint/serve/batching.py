"""One model for all requests: clips that wait while it computes are its next batch."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from counterpoint.data.clip import Clip
from counterpoint.predict import Prediction, Predictor

BATCH = 32  # clips


class BatchingPredictor:
    """Batches the clips of requests at the same time; used as a context.

    No clip waits for others to come: while the model computes a batch, the next one gathers.

    Args:
        predictor: the predictor whose model computes.
        observe: is called with the size of each batch.
    """

    def __init__(self, predictor: Predictor, observe: Callable[[int], object] = lambda clips: None) -> None:
        self.predictor = predictor
        self.observe = observe
        self._waiting: asyncio.Queue[tuple[Clip, asyncio.Future[Prediction]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "predictor")

    async def __aenter__(self) -> "BatchingPredictor":
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown()

    async def predict(self, clip: Clip) -> Prediction:
        """The model's prediction for a clip of its features."""
        future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((clip, future))
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            self.observe(len(batch))
            clips = [clip for clip, _ in batch]
            try:
                predictions = await loop.run_in_executor(self._thread, self.predictor.predict_clips, clips)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), prediction in zip(batch, predictions, strict=True):
                if not future.done():  # its request was cancelled
                    future.set_result(prediction)
