import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from counterpoint.data.clip import Clip
from counterpoint.predict import Prediction, Predictor
from counterpoint.run import RunFolder
from counterpoint.serve.batching import BATCH, BatchingPredictor
from serve.conftest import SIZES


def clips(count: int) -> list[Clip]:
    """Of codes and of floats, of different lengths, some without sound."""
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        steps = number % 5 + 1
        tracks = {name: random.integers(1, 256, (steps, size), np.uint8) for name, size in SIZES.items()}
        if number % 3 == 1:
            tracks["video"] = random.normal(size=(steps, SIZES["video"])).astype(np.float32)
        if number % 4 == 3:
            del tracks["audio"]
        made.append(Clip(str(number), np.zeros(0, np.int64), tracks))
    return made


def test_whatever_waits_is_a_batch(record_run: RunFolder) -> None:
    """Those that come while the model works are read at once, and each gets its own answer."""
    single = Predictor(record_run)
    waiting = clips(BATCH + 8)
    sizes: list[int] = []
    go_on = threading.Event()

    async def ask() -> list[Prediction]:
        async with BatchingPredictor(single, sizes.append) as predictor:
            at_once = single.predict_clips

            def slow(batch: list[Clip]) -> list[Prediction]:
                assert go_on.wait(30)
                return at_once(batch)

            single.predict_clips = slow  # type: ignore[method-assign,assignment]
            asked = [asyncio.create_task(predictor.predict(clip)) for clip in waiting]
            while not sizes:
                await asyncio.sleep(0.001)
            late = asyncio.create_task(predictor.predict(waiting[0]))
            await asyncio.sleep(0.01)
            go_on.set()
            answers = await asyncio.gather(*asked)
            np.testing.assert_allclose((await late).probabilities, answers[0].probabilities, atol=1e-6)
            return answers

    answers = asyncio.run(ask())
    assert sizes == [BATCH, 9]
    for clip, prediction in zip(waiting, answers, strict=True):
        (expected,) = Predictor(record_run).predict_clips([clip])
        np.testing.assert_allclose(prediction.probabilities, expected.probabilities, atol=1e-6)
        assert prediction.correlation == pytest.approx(expected.correlation, abs=1e-6)


def test_a_fault_fails_its_batch_and_the_next_is_answered(record_run: RunFolder) -> None:
    faulty = Clip("faulty", np.zeros(0, np.int64), {"video": np.ones((2, 3), np.uint8)})
    (fine,) = clips(1)

    async def ask() -> Prediction:
        async with BatchingPredictor(Predictor(record_run)) as predictor:
            with pytest.raises(Exception, match="features of 3 uint8, not 16 uint8"):
                await predictor.predict(faulty)
            return await predictor.predict(fine)

    assert asyncio.run(ask()).probabilities.shape == (5,)


def test_a_run_that_categorizes_nothing(record_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="names no categories"):
        Predictor(RunFolder.load(record_run.folder / "tower"))
