"""A run's predictions for every clip of a data set, computed once and kept in a folder.

================  ==============================================================================
``survey.json``   fingerprints of run and data, and how many clips are done
``ids.npy``       (clip,) bytes, UTF-8
``scores.npy``    (clip, category) float16 log-odds, no category above its parent
``vectors.npy``   (clip, hidden) float16, the head's hidden layer, if asked for
``labels.npy``    (clip, byte) the true categories as bits, where the data set is labelled
``figures.npy``   (clip, 1 + pair) float32: the loss (NaN without labels), and by pair of modalities
                  the tower's probability of correlation (NaN where one is missing)
================  ==============================================================================

A million clips with 640 categories and 1024 hidden features take 3.3 GB there, which are mapped and not loaded.
"""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Shaped

from counterpoint.data.dataset import Dataset
from counterpoint.data.loading import Batch
from counterpoint.errors import Error
from counterpoint.evaluation.ranking import from_log_odds, log_odds
from counterpoint.files import check_output_folder, claimed, naming, replacing
from counterpoint.models.categorizer import Output
from counterpoint.predict import Predictor, batches
from counterpoint.run import RunFolder, write_json

SURVEY_FILE = "survey.json"
IDS_SO_FAR = "ids.jsonl"  # one a line until all are known
VERSION = 1

Numbers = Shaped[np.ndarray, "chosen"] | slice


@dataclass(frozen=True)
class Survey:
    """A run's predictions for the clips of a data set, in the data set's order; arrays are mapped from the disk."""

    folder: Path
    about: dict[str, Any]
    ids: Shaped[np.ndarray, "clip"]
    scores: Float[np.ndarray, "clip category"]
    figures: Float[np.ndarray, "clip figure"]
    bits: Shaped[np.ndarray, "clip byte"] | None
    vectors: Float[np.ndarray, "clip hidden"] | None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pairs(self) -> list[str]:
        """The pairs of modalities whose correlation the run's tower gives, as "audio and video"."""
        return [" and ".join(pair) for pair in self.about["pairs"]]

    def name(self, clip: int) -> str:
        """The clip's id."""
        return bytes(self.ids[clip]).decode()

    def probabilities(self, clips: Numbers) -> Float[np.ndarray, "chosen category"]:
        """The probabilities of some clips, float32."""
        return from_log_odds(self.scores[clips])

    def labels(self, clips: Numbers) -> Bool[np.ndarray, "chosen category"]:
        """The true categories of some clips, with their ancestors.

        Raises:
            ValueError: the data set was read without its labels.
        """
        if self.bits is None:
            raise ValueError("a survey without labels")
        return np.unpackbits(self.bits[clips], axis=1, count=self.scores.shape[1]).view(np.bool_)


def survey(
    run: RunFolder,
    dataset: Dataset,
    folder: Path,
    *,
    vectors: bool = False,
    workers: int = 0,
    progress: Callable[[int], None] = lambda clips: None,
) -> Survey:
    """The predictions kept in a folder, which are computed first where they are missing; an interrupted call goes on.

    Args:
        run: of a categorizer, trained.
        dataset: clips, with or without labels.
        folder: see `folder_name` for one that belongs to run and data.
        vectors: keep the head's hidden layer too.
        workers: processes that read ahead.
        progress: called with how many more clips are done, those before an interruption first.

    Returns:
        Arrays over all clips, mapped from the disk.

    Raises:
        Error: the folder holds something else, another run's predictions or those for other clips, another process
            computes there, or the run cannot read the data.
    """
    about = _about(run, dataset, vectors)
    path = folder / SURVEY_FILE
    check_output_folder(folder, SURVEY_FILE)
    with claimed(folder, "another process is computing there; wait for it"):
        if not path.exists():
            write_json(path, about | {"done": 0})
        done = _done(path, about)
        if done < len(dataset) or (folder / IDS_SO_FAR).exists():
            progress(done)
            _compute(run, dataset, folder, about, done, workers, progress)
    return _load(folder, about)


def folder_name(run: RunFolder, dataset: Dataset) -> str:
    """A name for the folder of a run's survey of these clips, unlike that of other runs or clips."""
    return f"{run.fingerprint[:8]}-{dataset.fingerprint[:8]}"


def _about(run: RunFolder, dataset: Dataset, vectors: bool) -> dict[str, Any]:
    return {
        "version": VERSION,
        "run": run.fingerprint,
        "clips": dataset.fingerprint,
        "labels": run.labelling.labels.fingerprint if dataset.labelled else None,
        "count": len(dataset),
        "vectors": vectors,
    }


def _done(path: Path, about: dict[str, Any]) -> int:
    """How many clips are done in a folder, which must be of the same run, clips and options."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        done = int(stored["done"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Error(f"{path}: cannot be read ({error}); delete {path.parent}") from error
    words = {"run": "another run's model", "clips": "other clips", "labels": "another label mapping"}
    for name, value in about.items():
        if stored.get(name) != value:
            what = words.get(name, f"another {name}")
            raise Error(
                f"{path.parent}: was made with {what} ({name} {stored.get(name)}, not {value}); "
                "name another folder, or delete this one"
            )
    return done


def _compute(
    run: RunFolder,
    dataset: Dataset,
    folder: Path,
    about: dict[str, Any],
    done: int,
    workers: int,
    progress: Callable[[int], None],
) -> None:
    """Predict the clips that are left, and write down after every batch how many are done."""
    predictor = Predictor(run)
    rest = copy.copy(dataset)
    rest.where = dataset.where[done:]
    ids = folder / IDS_SO_FAR
    known = ids.read_text(encoding="utf-8").splitlines(True)[:done] if done else []
    ids.write_text("".join(known), encoding="utf-8")  # a killed process may have written more than is in survey.json
    arrays: dict[str, Any] = {}
    with naming(ids), ids.open("a", encoding="utf-8") as names:
        for batch in batches(run, rest, workers=workers) if len(rest) else ():
            output = predictor.forward(batch.tracks)
            pairs = list(output.correlation.probability) if output.correlation else []
            parts = _parts(predictor, batch, output, about)
            for name, part in parts.items():
                if name not in arrays:
                    arrays[name] = _array(folder / f"{name}.npy", (len(dataset), *part.shape[1:]), part.dtype, done)
                arrays[name][done : done + len(batch.ids)] = part
            names.writelines(json.dumps(clip) + "\n" for clip in batch.ids)
            done += len(batch.ids)
            for array in arrays.values():
                array.flush()
            names.flush()
            write_json(folder / SURVEY_FILE, about | {"done": done, "pairs": pairs})
            progress(len(batch.ids))
    written = [json.loads(line).encode() for line in ids.read_text(encoding="utf-8").splitlines()]
    with replacing(folder / "ids.npy") as file:
        np.save(file, np.array(written))
    ids.unlink()


def _parts(
    predictor: Predictor, batch: Batch, output: Output, about: dict[str, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    """The rows of a batch's clips in each array."""
    by_pair = output.correlation.probability if output.correlation else {}
    figures = np.full((len(batch.ids), 1 + len(by_pair)), np.nan, np.float32)
    for column, ((one, other), probability) in enumerate(by_pair.items(), 1):
        both = (batch.tracks[one].mask.any(1) & batch.tracks[other].mask.any(1)).numpy()
        figures[both, column] = probability.float().cpu().numpy()[both]
    parts: dict[str, np.ndarray[Any, Any]] = {
        "scores": log_odds(predictor.probabilities(output.logits)),
        "figures": figures,
    }
    if about["labels"] is not None:
        logits = output.logits.float().cpu()
        each = functional.binary_cross_entropy_with_logits(logits, batch.labels.float(), reduction="none")
        figures[:, 0] = each.mean(1)
        parts["labels"] = np.packbits(batch.labels.numpy(), axis=1)
    if about["vectors"]:
        parts["vectors"] = output.hidden.float().cpu().numpy().astype(np.float16)
    return parts


def _array(path: Path, shape: tuple[int, ...], dtype: Any, done: int) -> Any:
    if done:
        return np.load(path, mmap_mode="r+")
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # a full disk is an error here, where through the map it would end the process
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
    return array


def _load(folder: Path, about: dict[str, Any]) -> Survey:
    arrays = {}
    for name in ("ids", "scores", "figures", "labels", "vectors"):
        if (name == "labels" and about["labels"] is None) or (name == "vectors" and not about["vectors"]):
            continue
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r")
            if len(arrays[name]) != about["count"]:
                raise ValueError(f"{len(arrays[name])} rows, not {about['count']}")
        except (OSError, ValueError, EOFError) as error:
            raise Error(f"{path}: cannot be read ({error}); delete {folder}") from error
    stored = json.loads((folder / SURVEY_FILE).read_text(encoding="utf-8"))
    return Survey(
        folder,
        stored,
        arrays["ids"],
        arrays["scores"],
        arrays["figures"],
        arrays.get("labels"),
        arrays.get("vectors"),
    )
