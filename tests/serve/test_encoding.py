"""Uploads that hang, and that take too much memory."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counterpoint.data.records import clip_of
from counterpoint.data.tfrecord import Shard
from counterpoint.media import encoders
from counterpoint.media import films as render
from counterpoint.media.workers import WorkerPool
from counterpoint.serve import encoding
from counterpoint.serve.encoding import Task, encode_film
from counterpoint.serve.settings import MEGABYTE, RefusedError, Settings


@pytest.mark.slow
def test_hangs_and_takes_too_much(films: Path, tmp_path: Path) -> None:
    """Both cost their file and nothing else, and what comes after is encoded as ever."""
    (tmp_path / "large").mkdir()
    (folder := tmp_path / "fine").mkdir()
    frame = np.full((2160, 4096, 3), 90, np.uint8)
    large = render.write(
        tmp_path / "large.mp4", [frame] * 12, None, fps=1, options={"preset": "ultrafast", "refs": "12"}
    )
    settings = Settings(workers=1, time_limit=30, memory=100 * MEGABYTE)
    begun = []

    async def work() -> None:
        with WorkerPool("lite", settings.workers, settings.memory) as pool:
            pool.preload()
            task = Task("large.mp4", large, tmp_path / "large")
            with pytest.raises(RefusedError, match="more memory than is allowed") as refused:
                await encode_film(pool, task, settings, lambda: begun.append(1))
            assert refused.value.status == 422

            process = pool.submit(os.getpid).result()
            task = Task("a.mkv", films / "long.mkv", tmp_path)
            hanging = asyncio.create_task(encode_film(pool, task, replace(settings, time_limit=8), list))
            while not encoding.progress(tmp_path) and not hanging.done():
                await asyncio.sleep(0.002)
            os.kill(process, signal.SIGSTOP)
            with pytest.raises(RefusedError, match="took more than 8 s"):
                await hanging
            task = Task("b.mp4", films / "rain-wind.mp4", folder)
            assert await encode_film(pool, task, settings, lambda: begun.append(2)) == []

    asyncio.run(work())
    assert begun == [1, 2]
    clip = clip_of(Shard(folder / encoding.CLIP), 0)
    expected = encoders.build("lite").encode(films / "rain-wind.mp4", "b.mp4").clip
    assert clip.id == "b.mp4"
    for modality, track in expected.tracks.items():
        np.testing.assert_array_equal(clip.tracks[modality], track)
    assert encoding.progress(folder) == 1
    assert all(encoding.thumbnail(folder, second) for second in range(3))
    assert encoding.thumbnail(folder, 3) is None
