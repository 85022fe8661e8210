"""A run's model, or its answers, in a file that other software reads.

A model's file takes padded features and masks, and gives probabilities by category. All that the library does between
features and probabilities is in its graph: damping, the model, a correlation tower, calibration, and the
consistency of parents and children. It is written only where its answers agree with the library's (see `TOLERANCE`).
"""

import contextlib
import csv
import importlib.util
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoint import __version__
from counterpoint.data.clip import Clip
from counterpoint.data.records import CODE_OFFSET, CODE_SCALE
from counterpoint.data.tracks import Track, Tracks
from counterpoint.errors import UNREADABLE, Error
from counterpoint.files import check_output_file, replacing, write_text
from counterpoint.models.categorizer import Categorizer
from counterpoint.models.correlation import Tower
from counterpoint.predict import Predictor
from counterpoint.recipes import Recipe, TowerRecipe, to_json
from counterpoint.run import RunFolder
from counterpoint.tables import for_spreadsheet, from_spreadsheet

ModelFormat = Literal["onnx", "torchscript", "pt2"]
AnswerFormat = Literal["fiftyone", "label-studio", "csv"]
MODEL_FORMATS: tuple[ModelFormat, ...] = ("onnx", "torchscript", "pt2")
ANSWER_FORMATS: tuple[AnswerFormat, ...] = ("fiftyone", "label-studio", "csv")
ANSWERS = (".jsonl", ".json", ".csv")
"""How files of answers are called."""
TOLERANCE = 1e-5
"""The most that a probability of an exported model may differ from the library's."""
PROBABILITIES = "probabilities"
BATCHES = 1 << 20  # the most clips that a graph takes at once
SEED = 2026  # of the clips that an exported model is checked with
PRODUCER = "counterpoint"
LOGGERS = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")

Inputs = dict[str, Tensor]
Outputs = dict[str, Float[np.ndarray, "clip ..."]]


# --- models -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        format: its format.
        inputs: the names of its inputs.
        outputs: the names of its outputs.
        clips: how many clips it was checked with.
        difference: the largest difference between its answers and the library's.
    """

    path: Path
    format: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    clips: int
    difference: float


class _Graph(nn.Module):
    """A run's model from features to probabilities, as one graph.

    Args:
        pairs: the pairs of modalities whose correlation is an output.
    """

    slope: Tensor
    bias: Tensor
    above: Tensor
    family: Tensor

    def __init__(self, run: RunFolder, model: Categorizer, pairs: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.model = model
        self.names = _read(run, model)
        self.inputs = tuple(part for name in self.names for part in (name, f"{name}_mask"))
        self.pairs = tuple(pairs)
        taxonomy, reliability = run.labelling.taxonomy, run.reliability
        self.calibrated = reliability is not None
        self.register_buffer("slope", torch.tensor(reliability.slope if reliability else 1.0))
        self.register_buffer("bias", torch.tensor(reliability.bias if reliability else (0.0,)))
        own = np.arange(len(taxonomy))
        self.register_buffer("above", torch.from_numpy(np.where(taxonomy.parents < 0, own, taxonomy.parents)))
        self.levels = int(taxonomy.levels.max())
        assert isinstance(run.recipe, Recipe)
        self.raises = run.recipe.consistency == "raise"
        children = [(i, *taxonomy.children(i)) for i in range(len(taxonomy))]
        most = max(map(len, children))
        self.register_buffer("family", torch.tensor([each + each[:1] * (most - len(each)) for each in children]))

    def forward(self, inputs: Inputs) -> Inputs:
        output = self.model({name: Track(inputs[name], inputs[f"{name}_mask"]) for name in self.names})
        logits = output.logits.float()
        if self.calibrated:
            logits = logits * self.slope + self.bias
        probabilities = logits.sigmoid()
        for _ in range(self.levels):  # after so many steps no category is more probable than any above it
            if self.raises:
                probabilities = probabilities[:, self.family].amax(-1)
            else:
                probabilities = torch.minimum(probabilities, probabilities[:, self.above])
        found = {PROBABILITIES: probabilities}
        return found | {_output(pair): output.correlation.probability[pair] for pair in self.pairs}


def _read(run: RunFolder, model: Categorizer) -> list[str]:
    """The modalities that a model or its tower reads, in the order of the run's features."""
    trunks = [model.trunk, *([model.tower.trunk] if isinstance(model.tower, Tower) else [])]
    return [name for name in run.features.sizes if any(name in trunk.read.modalities for trunk in trunks)]


def _output(pair: tuple[str, str]) -> str:
    return f"correlation_{'_'.join(pair)}"


def export_model(run: RunFolder, path: Path, format: ModelFormat) -> Exported:  # noqa: A002
    """Write a run's categorizer as one file for other software.

    For each modality NAME that the model reads, the file takes NAME, float32 (batch, step, feature), and NAME_mask,
    bool (batch, step), which is False where a clip has no step; batch and steps may have any size. It gives
    ``probabilities``, float32 (batch, category), and for each pair of modalities that a correlation tower compares
    ``correlation_ONE_OTHER``, float32 (batch,), unless the tower is known to be no better than chance. Clips longer
    than the recipe's ``max_steps`` are cut before; 8-bit codes become features by code * CODE_SCALE + CODE_OFFSET.

    Names of categories, their thresholds, features and recipe are in the file's metadata, see `metadata`.

    Args:
        path: the file; one that this function wrote before is replaced.
        format: ``onnx`` (takes the extra ``export``) or ``pt2``, which PyTorch reads. ``torchscript`` is refused.

    Raises:
        Error: the run is a correlation tower or not trained, the format cannot hold it, an extra is not installed, or
            the file's answers are not the library's; nothing is written then.

    Example:
        export_model(RunFolder.load("runs/mine"), Path("model.onnx"), "onnx")
    """
    if format not in MODEL_FORMATS:
        raise Error(f"{format}: not a format of models; use {', '.join(MODEL_FORMATS)}")
    if isinstance(run.recipe, TowerRecipe):
        raise Error(
            f"{run.folder}: a correlation tower, which names no categories, so there is no categorizer to export; "
            "export a run that was trained with this tower (`counterpoint train --tower`)"
        )
    if format == "torchscript":
        raise Error("PyTorch has deprecated TorchScript and advises against it; use --format pt2, or --format onnx")
    if format == "onnx":
        _check_onnx()
    _check_replaceable(path, format)
    predictor = Predictor(run)
    predictor.device = torch.device("cpu")
    model = predictor.model.cpu().requires_grad_(False)
    pairs = _pairs(run, predictor)
    graph = _Graph(run, model, pairs).eval()
    about = metadata(run, [*map(_output, pairs)])
    program = _program(run, graph, format)
    try:
        content = _onnx(program, graph, about) if format == "onnx" else _pt2(program, about)
        answer = _onnx_session(content) if format == "onnx" else _pt2_module(content)
    except Exception as error:  # of many kinds
        raise _failed(run, format, error) from error
    clips, difference = _compare(predictor, graph, answer)
    if not difference <= TOLERANCE:  # NaN neither
        raise Error(
            f"{run.folder}: as {format} the model's answers differ from the library's by {difference:.1g}, more than "
            f"{TOLERANCE:.0e}, so nothing was written; try another --format, or keep to the library"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)
    return Exported(path, format, graph.inputs, (PROBABILITIES, *map(_output, pairs)), clips, difference)


def metadata(run: RunFolder, correlations: Sequence[str] = ()) -> dict[str, str]:
    """What an exported file has beside its graph, each a text; all but the last three are JSON.

    ``categories`` are the paths in the order of the probabilities; ``thresholds`` the probabilities from which on each
    is an answer, null where a category was never trained.
    """
    taxonomy = run.labelling.taxonomy
    content: dict[str, Any] = {
        "categories": list(taxonomy.paths),
        "category_ids": list(taxonomy.ids),
        "thresholds": [float(value) if np.isfinite(value) else None for value in run.thresholds],
        "features": {"encoder": run.features.encoder, "sizes": run.features.sizes},
        "codes": {"scale": CODE_SCALE, "offset": CODE_OFFSET},
        "max_steps": run.recipe.max_steps,
        "correlations": list(correlations),
        "recipe": to_json(run.recipe),
    }
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in content.items()}
    digests = {"features_fingerprint": run.features.fingerprint, "run_fingerprint": run.fingerprint}
    return texts | digests | {"version": __version__}


def _check_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise Error(f"--format onnx needs an extra (no {missing[0]}): pip install 'counterpoint[export]'")


def _check_replaceable(path: Path, format: ModelFormat) -> None:  # noqa: A002
    """Raise Error where a file must not be replaced."""
    if format == "onnx" or not path.is_file():
        return check_output_file(path, PRODUCER.encode())
    try:
        with zipfile.ZipFile(path) as file:
            own = any(name.endswith("/run_fingerprint") for name in file.namelist())
    except (OSError, zipfile.BadZipFile):
        own = not path.stat().st_size
    if not own:
        raise Error(f"{path}: is not a file of this command; choose another --out, or remove it")
    return None


def _pairs(run: RunFolder, predictor: Predictor) -> list[tuple[str, str]]:
    """The pairs whose correlation is shown."""
    if predictor.model.tower is None or predictor.chance_tower:
        return []
    correlation = predictor.forward(predictor.tracks([_clips(run, 1)[0]])).correlation
    return list(correlation.probability) if correlation else []


def _inputs(tracks: Tracks, names: Sequence[str]) -> Inputs:
    """A batch as a graph takes it."""
    inputs: Inputs = {}
    for name in names:
        features, mask = tracks[name]
        inputs[name] = features * CODE_SCALE + CODE_OFFSET if features.dtype == torch.uint8 else features.float()
        inputs[f"{name}_mask"] = mask
    return inputs


def _program(
    run: RunFolder,
    graph: _Graph,
    format: str,  # noqa: A002
) -> torch.export.ExportedProgram:
    """The graph, for batches and steps of any size."""
    longest = run.recipe.max_steps
    clips, steps = 3, min(longest, 4)
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=BATCHES)}
    if longest > 1:
        dynamic[1] = torch.export.Dim("step", min=1, max=longest)
    inputs: Inputs = {}
    for name in graph.names:
        inputs[name] = torch.randn(clips, steps, run.features.sizes[name])
        inputs[f"{name}_mask"] = torch.ones(clips, steps, dtype=torch.bool)
    shapes = {"inputs": dict.fromkeys(inputs, dynamic)}
    try:
        with _silent(), torch.no_grad():
            return torch.export.export(graph, (inputs,), dynamic_shapes=shapes)
    except Exception as error:  # of many kinds, and of a model's own parts
        raise _failed(run, format, error) from error


def _failed(run: RunFolder, format: str, error: Exception) -> Error:  # noqa: A002
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return Error(
        f"{run.folder}: a model of its kind cannot be written as {format} ({type(error).__name__}: {first:.200}); "
        "serve it with `counterpoint serve`, or use the library"
    )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without warnings and logs of PyTorch's exporters, which are about their own parts."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _pt2(program: torch.export.ExportedProgram, about: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with _silent():
        torch.export.save(program, file, extra_files=dict(about))
    return file.getvalue()


def _pt2_module(content: bytes) -> Callable[[Inputs], Outputs]:
    with _silent():
        module = torch.export.load(io.BytesIO(content)).module()

    def answer(inputs: Inputs) -> Outputs:
        with torch.no_grad():
            return {name: tensor.numpy() for name, tensor in module(inputs).items()}

    return answer


def _onnx(program: torch.export.ExportedProgram, graph: _Graph, about: dict[str, str]) -> bytes:
    import onnx

    outputs = [PROBABILITIES, *map(_output, graph.pairs)]
    with _silent():
        made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=graph.inputs, output_names=outputs)
        assert made is not None
        model = made.model_proto
    _name_axes(model)
    model.producer_name, model.producer_version = PRODUCER, __version__
    onnx.helper.set_model_props(model, about)
    return bytes(model.SerializeToString())


def _name_axes(model: Any) -> None:
    """Call the axes of any size ``batch`` and ``step`` wherever they stand alone."""
    shapes = [value.type.tensor_type.shape.dim for part in ("input", "output") for value in getattr(model.graph, part)]
    names = {axis.dim_param: name for axis, name in zip(shapes[0], ("batch", "step"), strict=False) if axis.dim_param}
    shapes += [value.type.tensor_type.shape.dim for value in model.graph.value_info]
    for axis in (axis for shape in shapes for axis in shape):
        if axis.dim_param in names:
            axis.dim_param = names[axis.dim_param]


def _onnx_session(content: bytes) -> Callable[[Inputs], Outputs]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def answer(inputs: Inputs) -> Outputs:
        given = {name: tensor.numpy() for name, tensor in inputs.items()}
        return dict(zip(names, session.run(None, given), strict=True))

    return answer


# --- the check --------------------------------------------------------------------------------------------------------


def _clips(run: RunFolder, count: int, floats: bool = False, steps: int = 0, seed: int = SEED) -> list[Clip]:
    """Random clips of mixed lengths, or of ``steps``; the second lacks one modality, the third another, and so on."""
    random = np.random.default_rng(seed)
    names = list(run.features.sizes)
    clips = []
    for number in range(count):
        tracks: dict[str, np.ndarray[Any, Any]] = {}
        for place, (name, size) in enumerate(run.features.sizes.items()):
            length = steps or int(random.integers(1, min(run.recipe.max_steps, 12) + 1))
            track = random.integers(0, 256, (length, size), np.uint8)
            if number and (number - 1) % (len(names) + 2) in (place, len(names)):  # the last lacks all of them
                continue
            tracks[name] = random.standard_normal((length, size)).astype(np.float32) if floats else track
        clips.append(Clip(f"clip{number}", np.zeros(0, np.int64), tracks))
    return clips


def _compare(predictor: Predictor, graph: _Graph, answer: Callable[[Inputs], Outputs]) -> tuple[int, float]:
    """How many clips were compared, and the largest difference of an output from the library's."""
    run = predictor.run
    count = len(run.features.sizes) + 4
    longest = _clips(run, 1, steps=run.recipe.max_steps)
    batches = [_clips(run, 1, steps=1), _clips(run, count), _clips(run, count, floats=True, seed=SEED + 1), longest]
    worst = 0.0
    for clips in batches:
        inputs = _inputs(predictor.tracks(clips), graph.names)
        for name in graph.names:  # what stands where no step is counts for nothing
            inputs[name] = inputs[name].masked_fill(~inputs[f"{name}_mask"].unsqueeze(-1), 7.0)
        found = answer(inputs)
        predictions = predictor.predict_clips(clips)
        expected: Outputs = {PROBABILITIES: np.stack([one.probabilities for one in predictions])}
        for pair in graph.pairs:
            expected[_output(pair)] = np.array([one.correlation[" and ".join(pair)] for one in predictions])
        for name, values in expected.items():
            worst = float(np.maximum(worst, np.abs(found[name] - values).max()))  # keeps NaN
    return sum(map(len, batches)), worst


# --- answers ----------------------------------------------------------------------------------------------------------

Answer = Mapping[str, Any]


def export_answers(
    answers: Path,
    out: Path,
    format: AnswerFormat,  # noqa: A002
    *,
    media: str = "",
    above: float = 0.5,
) -> int:
    """Write answers of `counterpoint categorize` for a tool that people look at videos with.

    ``fiftyone``
        JSON that ``fiftyone.Dataset.from_json`` reads: a sample for each clip, its file's path being the clip's id,
        with the field ``predictions`` (Classifications with their confidence), the fields ``unsure`` and ``unlike``
        and tags of these names.
    ``label-studio``
        JSON of tasks with predictions, for a labelling interface with a Video called ``video`` and Choices called
        ``category``.
    ``csv``
        A table with a line for each category of a clip.

    Args:
        answers: a table that `categorize --out` wrote (.jsonl or .csv), or what its ``--json`` printed.
        out: the file; one that this function wrote before is replaced.
        media: stands before each clip's id in paths: a folder, or the start of a URL.
        above: Label Studio: the probability from which on a category is a choice. Where none reaches it, the most
            probable is, unless the answer is unsure.

    Returns:
        The number of clips.

    Raises:
        Error: the answers cannot be read, or ``out`` is another file.
    """
    if format not in ANSWER_FORMATS:
        raise Error(f"{format}: not a format of answers; use {', '.join(ANSWER_FORMATS)}")
    marks = {"fiftyone": b'"info": {"counterpoint": ', "label-studio": b'"model_version": "counterpoint ', "csv": CSV}
    check_output_file(out, marks[format])
    found = read_answers(answers)
    if format == "csv":
        text = _csv(found)
    elif format == "fiftyone":
        text = json.dumps(_fiftyone(found, media, out.stem), ensure_ascii=False) + "\n"
    else:
        text = json.dumps([_task(one, media, above) for one in found], ensure_ascii=False) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    return len(found)


CSV = b"id,rank,path,probability"
LABELS = "EmbeddedDocumentField(fiftyone.core.labels.Classifications)"


def read_answers(path: Path) -> list[Answer]:
    """The answers in a file of `counterpoint categorize`: JSON lines, a JSON list, or CSV.

    Raises:
        Error: it cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Error(f"{path}: no such file; `counterpoint categorize RUN VIDEOS --out {path}` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"{path}: cannot be read ({error})") from error
    try:
        if path.suffix == ".csv":
            return list(_from_csv(text))
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
        return [_checked(row) for row in rows]
    except UNREADABLE as error:
        raise Error(
            f"{path}: not answers of `counterpoint categorize` ({type(error).__name__}: {error!s:.100}); "
            "make them with its --out"
        ) from error


def _checked(row: Any) -> Answer:
    str.encode(row["id"])
    for one in row["categories"]:
        str.encode(one["path"])
        if not 0 <= one["probability"] <= 1:
            raise ValueError(f"{one['probability']} is no probability")
    return dict(row)


def _from_csv(text: str) -> Iterator[Answer]:
    """Answers of a table; it has no word on whether they are unsure."""
    table = csv.DictReader(io.StringIO(text, newline=""))
    if not {"id", "path", "probability"} <= set(table.fieldnames or ()):
        raise ValueError("no columns id, path and probability")
    pairs = [name for name in table.fieldnames or () if " and " in name]
    by_id: dict[str, dict[str, Any]] = {}
    for row in table:
        correlation = {"correlation": {pair: float(row[pair]) for pair in pairs}} if pairs else {}
        doubts = {name: row[name] == "True" for name in ("unsure", "unlike") if row.get(name)}
        id_ = from_spreadsheet(row["id"])
        answer = by_id.setdefault(id_, {"id": id_, "categories": [], **doubts, **correlation})
        iab = {"iab": row["iab"] or None} if "iab" in row else {}
        path = from_spreadsheet(row["path"])
        answer["categories"].append({"path": path, "probability": float(row["probability"]), **iab})
    yield from map(_checked, by_id.values())


def _csv(answers: Sequence[Answer]) -> str:
    codes = any("iab" in category for one in answers for category in one["categories"])
    pairs = sorted({pair for one in answers for pair in one.get("correlation", {})})
    file = io.StringIO(newline="")
    table = csv.writer(file)
    table.writerow(["id", "rank", "path", "probability", *(["iab"] if codes else []), "unsure", "unlike", *pairs])
    for one in answers:
        correlation = one.get("correlation", {})
        doubts = [one.get("unsure", ""), one.get("unlike", ""), *(correlation.get(pair, "") for pair in pairs)]
        for rank, category in enumerate(one["categories"], 1):
            iab = [category.get("iab") or ""] if codes else []
            row = [one["id"], rank, category["path"], category["probability"], *iab, *doubts]
            table.writerow(for_spreadsheet(row))
    return file.getvalue()


def _located(media: str, clip_id: str) -> str:
    return f"{media.rstrip('/')}/{clip_id}" if media and not media.endswith("=") else media + clip_id


def _fiftyone(answers: Sequence[Answer], media: str, name: str) -> dict[str, Any]:
    samples = []
    for one in answers:
        doubts = {doubt: one[doubt] for doubt in ("unsure", "unlike") if doubt in one}
        labels = [
            {
                "_cls": "Classification",
                "label": category["path"],
                "confidence": category["probability"],
                "tags": [],
            }
            for category in one["categories"]
        ]
        correlation = {f"correlation {pair}".replace(" ", "_"): p for pair, p in one.get("correlation", {}).items()}
        samples.append(
            {
                "_media_type": "video",
                "filepath": _located(media, one["id"]),
                "tags": [doubt for doubt, true in doubts.items() if true],
                "predictions": {"_cls": "Classifications", "classifications": labels},
                **doubts,
                **correlation,
            }
        )
    kinds = {"predictions": LABELS, "unsure": "BooleanField", "unlike": "BooleanField"}
    fields = {field: f"fiftyone.core.fields.{kinds.get(field, 'FloatField')}" for one in samples for field in one}
    for own in ("_media_type", "filepath", "tags"):
        fields.pop(own, None)
    about = {"info": {"counterpoint": __version__}, "name": name, "media_type": "video"}
    return {**about, "sample_fields": fields, "samples": samples}


def _task(answer: Answer, media: str, above: float) -> dict[str, Any]:
    """A task of Label Studio."""
    categories, unsure = answer["categories"], answer.get("unsure", False)
    chosen = [one for one in categories if one["probability"] >= above] or categories[:1]
    result = {
        "from_name": "category",
        "to_name": "video",
        "type": "choices",
        "value": {"choices": [one["path"] for one in chosen]},
    }
    prediction: dict[str, Any] = {
        "model_version": f"{PRODUCER} {__version__}",
        "score": categories[0]["probability"] if categories else 0.0,
        "result": [] if unsure or not chosen else [result],
    }
    doubts = {name: answer[name] for name in ("unsure", "unlike") if name in answer}
    data = {"video": _located(media, answer["id"]), "id": answer["id"], **doubts}
    return {"predictions": [prediction], "data": data}
