"""The answers of the API as JSON models; the OpenAPI document is made from them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1, examples=[0.93])]
Second = Annotated[int, Field(ge=0, examples=[2])]
Modality = Annotated[str, Field(description="`video`, `audio`, `text`, ...", examples=["audio"])]
Pair = Annotated[str, Field(examples=["audio and video"])]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Answer):
    """A refusal: the body of every response with a status of 400 or more."""

    detail: Annotated[str, Field(description="one line", examples=["holiday.mp4: not a video file that can be read"])]


class Features(_Answer):
    """The features that the model reads; others are refused."""

    encoder: Annotated[str, Field(examples=["lite-30eb25fa"])]
    sizes: Annotated[
        dict[str, int], Field(description="features a second, by modality", examples=[{"audio": 128, "video": 1280}])
    ]
    fingerprint: Annotated[str, Field(examples=["5ae0a1a2c1d5b5d4"])]


class Identity(_Answer):
    """The run and model of an answer, the same for all answers of one server."""

    run: Annotated[str, Field(description="the run folder's name", examples=["films-nv-cm"])]
    recipe: Annotated[str, Field(examples=["nv-cm"])]
    model: Annotated[str, Field(description="a fingerprint of the weights", examples=["0c0f7b0e5d2a9f31"])]
    taxonomy: Annotated[str, Field(description="a fingerprint of the categories", examples=["b1946ac92492d234"])]
    features: Features


class Category(_Answer):
    """A category with its probability."""

    id: Annotated[str, Field(examples=["food/dessert"])]
    name: Annotated[str, Field(examples=["Dessert"])]
    path: Annotated[str, Field(description="the names from the top", examples=["Food:Dessert"])]
    parent: Annotated[str | None, Field(description="its parent's id; none at level 0", examples=["food"])]
    level: Annotated[int, Field(ge=0, description="0 is the top", examples=[1])]
    iab: Annotated[str | None, Field(description="its code in the IAB Content Taxonomy 3.1", examples=["210"])]
    probability: Probability
    threshold: Annotated[
        float, Field(ge=0, le=1, description="the probability from which on it is an answer", examples=[0.5])
    ] = 0.5


class Answer(_Answer):
    """The categories of a clip."""

    job: Annotated[str, Field(description="the id that the explanation is read by", examples=["Zm9vYmFyYmF6cXV4"])]
    name: Annotated[
        str, Field(description="the file's, or the clip's id in a feature record", examples=["holiday.mp4"])
    ]
    kind: Literal["video", "features"]
    seconds: Annotated[int, Field(ge=0, description="the length that the model has read", examples=[42])]
    modalities: Annotated[list[str], Field(description="that the clip has", examples=[["audio", "video"]])]
    notes: Annotated[
        list[str], Field(description="faults of the file, in a few words", examples=[["damaged packets: 3"]])
    ]
    categories: Annotated[
        list[Category],
        Field(description="the most probable first; a category's ancestors always come before it"),
    ]
    correlation: Annotated[
        dict[str, float],
        Field(
            description="the probability that sound and picture belong together, by pair of modalities; "
            "empty where the model has no correlation tower, or one that is no better than chance",
            examples=[{"audio and video": 0.97}],
        ),
    ]
    unsure: Annotated[bool, Field(description="whether no category reaches its threshold", examples=[False])] = False
    unlike: Annotated[
        bool,
        Field(description="whether the clip is far from every clip that the model was trained on", examples=[False]),
    ] = False
    made_by: Identity


class Job(_Answer):
    """A file on its way to an answer."""

    id: Annotated[str, Field(examples=["Zm9vYmFyYmF6cXV4"])]
    name: Annotated[str, Field(examples=["holiday.mp4"])]
    state: Literal["running", "done", "failed"]
    stage: Literal["waiting", "decoding", "categorizing", "finished"]
    fraction: Annotated[float, Field(ge=0, le=1, description="of the whole", examples=[0.4])]
    answer: Annotated[Answer | None, Field(description="of a job that is done")] = None
    status: Annotated[int | None, Field(description="the HTTP status of a failure", examples=[422])] = None
    detail: Annotated[
        str | None,
        Field(description="the reason of a failure, in one line", examples=["holiday.mp4: lasts 612 s; 300 s at most"]),
    ] = None


class Jobs(_Answer):
    """The clips of a batch, in the order of the files."""

    jobs: list[Job]


class Example(_Answer):
    """A clip that the server offers; its job never expires."""

    job: Annotated[str, Field(examples=["Zm9vYmFyYmF6cXV4"])]
    name: Annotated[str, Field(examples=["rain-wind-7.mp4"])]
    kind: Literal["video", "features"]
    media: Annotated[
        str | None,
        Field(description="the path of the video file", examples=["/v1/examples/Zm9vYmFyYmF6cXV4/media"]),
    ]
    thumbnail: Annotated[str | None, Field(description="a data: URI", examples=["data:image/jpeg;base64,/9j/4AAQ"])]


class Examples(_Answer):
    """The clips that the server offers."""

    examples: list[Example]


# --- explanations -----------------------------------------------------------------------------------------------------


class Weights(_Answer):
    """The strongest rows (clusters, attention units or heads) by second."""

    before: list[list[float]]
    influence: list[list[float]]
    after: list[list[float]]


class Timeline(_Answer):
    """One modality's weights in the last layer. The lists have one entry for each second."""

    row: Annotated[str, Field(description="the name of a row: cluster, attention unit or head", examples=["cluster"])]
    present: Annotated[
        list[bool], Field(description="whether the modality is present, by second", examples=[[True, True]])
    ]
    before: Annotated[
        list[float], Field(description="the size of the weights before influence", examples=[[0.31, 0.29]])
    ]
    influence: Annotated[
        list[float], Field(description="the size of the other modality's influence", examples=[[0.02, 0.33]])
    ]
    after: Annotated[list[float], Field(description="the size of the weights after influence", examples=[[0.32, 0.55]])]
    numbers: Annotated[list[int], Field(description="the numbers of the rows in `rows`", examples=[[0, 3]])]
    rows: Weights


class Attended(_Answer):
    """One of the most attended seconds."""

    second: Second
    modality: Modality
    share: Annotated[float, Field(ge=0, le=1, description="its weight as a share of the largest", examples=[1.0])]
    thumbnail: Annotated[
        str | None, Field(description="the frame as a data: URI", examples=["data:image/jpeg;base64,/9j/4AAQ"])
    ]


class Change(_Answer):
    """The change of the answer when one modality is dropped, or swapped for another clip's."""

    what: Literal["without", "swapped"]
    modality: Modality
    other: Annotated[str | None, Field(description="the other clip's name", examples=["surf.mp4"])]
    changes: Annotated[
        list[float],
        Field(
            description="the change of each category's probability, in the order of `categories`",
            examples=[[-0.41, 0.02]],
        ),
    ]


class Explanation(_Answer):
    """The explanation of an answer."""

    job: Annotated[str, Field(examples=["Zm9vYmFyYmF6cXV4"])]
    name: Annotated[str, Field(examples=["holiday.mp4"])]
    categories: Annotated[list[Category], Field(description="the categories whose changes `changes` gives")]
    changes: list[Change]
    correlation: Annotated[dict[str, float], Field(examples=[{"audio and video": 0.97}])]
    per_second: Annotated[
        dict[str, list[float | None]],
        Field(
            description="the correlation of each second; null where one of the two modalities is missing. Of a model "
            "whose fusion is per second, by modality: each second's with all seconds of the others",
            examples=[{"audio and video": [0.9, None, 0.7]}],
        ),
    ]
    timelines: Annotated[dict[str, Timeline], Field(description="by modality; early fusion has one timeline, `joined`")]
    attended: Annotated[list[Attended], Field(description="the most attended seconds of each modality")]


# --- the server -------------------------------------------------------------------------------------------------------


class Node(_Answer):
    """A category and its descendants."""

    id: Annotated[str, Field(examples=["food"])]
    name: Annotated[str, Field(examples=["Food"])]
    path: Annotated[str, Field(examples=["Food"])]
    level: Annotated[int, Field(ge=0, examples=[0])]
    iab: Annotated[str | None, Field(examples=["210"])]
    children: list["Node"]


class Tree(_Answer):
    """The taxonomy."""

    fingerprint: Annotated[str, Field(examples=["b1946ac92492d234"])]
    categories: Annotated[int, Field(examples=[640])]
    levels: Annotated[int, Field(examples=[4])]
    tree: list[Node]


class TowerAUC(_Answer):
    """How well the correlation tower tells true pairs from false ones: by chance alone if `low` is 0.5 or less."""

    value: Annotated[float, Field(description="the area under the ROC curve", examples=[0.91])]
    low: Annotated[float, Field(description="the start of its 95 % interval", examples=[0.86])]
    high: Annotated[float, Field(description="the end of it", examples=[0.95])]
    pairs: Annotated[int, Field(description="the true pairs it was measured on", examples=[240])]


class About(_Answer):
    """The server's run and limits."""

    version: Annotated[str, Field(examples=["0.1.0"])]
    made_by: Identity
    tower: Annotated[bool, Field(description="whether the model has a correlation tower")]
    tower_auc: Annotated[TowerAUC | None, Field(description="null without a tower, or where it is unknown")] = None
    videos: Annotated[bool, Field(description="whether the server takes video files beside feature records")]
    max_bytes: Annotated[int, Field(description="of an upload", examples=[200_000_000])]
    max_seconds: Annotated[int, Field(description="of a video", examples=[300])]
    max_clips: Annotated[int, Field(description="of a batch", examples=[64])]
    keep_seconds: Annotated[float, Field(description="how long answers are kept", examples=[3600.0])]


class Health(_Answer):
    """Whether the server takes clips."""

    status: Literal["ok", "full", "stopping"]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of an endpoint for the OpenAPI document."""
    return {status: {"model": Problem} for status in statuses}
