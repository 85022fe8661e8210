import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training.world import TAXONOMY, recipe

from counterpoint.browse.clips import NO_VERDICT, VERDICTS, Clips, Filter, verdicts
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import YOUTUBE8M_SIZES, FeatureSet
from counterpoint.errors import Error
from counterpoint.evaluation.ranking import log_odds
from counterpoint.evaluation.survey import survey
from counterpoint.reliability import Reliability
from counterpoint.run import TOWER_FOLDER, RunFolder, write_json
from counterpoint.taxonomy.mapping import youtube8m


def names(clips: Clips, **chosen: object) -> str:
    """The ids' first letters, in order."""
    return "".join(clips.survey.name(i)[0] for i in clips.choose(Filter(**chosen)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "cbdaé"),  # by loss
        ({"reverse": True}, "éadbc"),
        ({"sort": "order"}, "abcdé"),
        # c: Ball denied by 0.8, as Dessert is in b, which comes first; d: Soup denied by 0.6
        ({"sort": "surprise"}, "bcdéa"),
        ({"sort": "correlation"}, "béda"),  # c has none
        ({"category": "Food"}, "bda"),
        ({"category": "Food:Dessert"}, "ba"),
        ({"category": "Food:Dessert", "role": "named"}, "ca"),
        ({"category": "Food:Dessert", "role": "missed"}, "b"),
        ({"category": "Food:Dessert", "role": "false"}, "c"),
        ({"category": "Food:Dessert", "role": "either"}, "cba"),
        ({"verdict": "right"}, "a"),
        ({"verdict": "partly"}, "d"),  # Ball of Soup and Ball
        ({"verdict": "wrong"}, "cb"),
        ({"verdict": "unsure"}, ""),
        ({"verdict": "right", "level": 0}, "bda"),
        ({"verdict": "wrong", "level": 0}, "c"),
        ({"verdict": "partly", "level": 1}, "d"),
        ({"level": 1}, "cbda"),
        ({"low": 0.4}, "daé"),
        ({"low": 0.3, "high": 0.6}, "dé"),
        ({"high": 1.0}, "bdaé"),
        ({"search": "<b"}, "é"),
        ({"search": "z"}, ""),
        ({"category": "Food", "verdict": "wrong", "high": 0.3}, "b"),
    ],
)
def test_filters_and_orders(known: Clips, chosen: dict[str, object], expected: str) -> None:
    assert names(known, **chosen) == expected


@pytest.mark.parametrize(
    ("labels", "answers", "verdict"),
    [
        ("Food Food:Dessert", "Food Food:Dessert", "right"),
        ("Food Food:Dessert", "Food:Dessert", "right"),  # thresholds of parents may be higher
        ("Food", "Food", "right"),
        ("Food Food:Dessert Food:Soup", "Food Food:Soup", "partly"),  # one is missing
        ("Food Food:Dessert", "Food Food:Dessert Sport", "partly"),  # one is false
        ("Food Food:Dessert", "Food", "partly"),  # true, and not specific
        ("Food", "Food Food:Soup", "partly"),  # more specific than the label
        ("Food Food:Dessert", "Food Food:Soup", "wrong"),  # that both are Food is no merit
        ("Food Food:Dessert", "Sport", "wrong"),
        ("Food Food:Dessert", "", "unsure"),
        ("", "Food", None),
        ("", "", None),
    ],
)
def test_verdicts(labels: str, answers: str, verdict: str | None) -> None:
    truth, answered = (np.array([[path in one.split() for path in TAXONOMY.paths]]) for one in (labels, answers))
    (found,) = verdicts(answered, truth, TAXONOMY)
    assert (VERDICTS[found] if found != NO_VERDICT else None) == verdict


def test_below_all_thresholds_a_clip_is_unsure_however_right_its_best_category_is(known: Clips) -> None:
    scores = np.array(known.survey.scores)
    scores[1] = log_odds(np.array([0.49, 0.48, 0.1, 0.1, 0.1]))  # b, a Dessert
    less = Clips(known.run, known.dataset, replace(known.survey, scores=scores))
    assert names(less, verdict="unsure") == names(less, verdict="unsure", level=1) == "b"
    assert names(less, category="Food:Dessert", role="missed") == "b"
    assert less.to_dicts([1])[0]["verdict"] == "unsure"
    assert [one["answered"] for one in less.to_dicts([1])[0]["truth"]] == [False]


def test_verdicts_follow_the_thresholds_of_the_run(known: Clips) -> None:
    above = (0.5, 0.15, 0.75, 0.5, 0.5)  # b: Dessert (0.2) is an answer, Soup (0.7) is none
    fitted = Reliability(1.0, (0.0,) * 5, above, unlike=9.0, typical=1.0, clips=40)
    known.run.folder.mkdir()
    known.run.save_reliability(fitted, np.ones((2, 4), np.float32))
    clips = Clips(replace(known.run), known.dataset, known.survey)
    assert names(clips, verdict="right") == "ba"
    assert names(clips, category="Food:Dessert", role="named") == "cba"
    assert [one["path"] for one in clips.to_dicts([1])[0]["predictions"]][:2] == ["Food:Soup", "Food:Dessert"]


def test_the_correlation_of_a_chance_tower_is_not_shown(known: Clips) -> None:
    (known.run.folder / TOWER_FOLDER).mkdir(parents=True)
    write_json(known.run.folder / TOWER_FOLDER / "auc.json", {"auc": 0.53, "low": 0.44, "high": 0.62, "pairs": 60})
    clips = Clips(replace(known.run), known.dataset, known.survey)
    assert clips.to_dicts([1])[0]["correlation"] == {}
    with pytest.raises(Error, match=r"no better than chance \(AUC 0.53 \[0.44, 0.62\] on 60 pairs\)"):
        names(clips, sort="correlation")


def test_the_address_of_a_filter() -> None:
    assert Filter().query == ""
    asked = Filter(category="Food:Ice & cream", verdict="wrong", low=0.5, sort="surprise", reverse=True)
    assert asked.query == "?category=Food%3AIce+%26+cream&verdict=wrong&low=0.5&sort=surprise-"
    assert Filter(level=0, reverse=True).query == "?level=0&sort=loss-"


def test_what_cannot_be_asked_for(known: Clips) -> None:
    with pytest.raises(Error, match="no category 'Foot'"):
        known.choose(Filter(category="Foot"))
    with pytest.raises(Error, match="no level 2: they are 0 to 1"):
        known.choose(Filter(level=2))
    with pytest.raises(Error, match="no verdict 'correct': they are right, partly, wrong, unsure"):
        known.choose(Filter(verdict="correct"))  # type: ignore[arg-type]
    without = replace(known.survey, about={"pairs": []}, figures=known.survey.figures[:, :1])
    for asked in (Filter(low=0.5), Filter(sort="correlation")):
        with pytest.raises(Error, match="without a correlation tower"):
            Clips(known.run, known.dataset, without).choose(asked)


def test_plain_values(known: Clips) -> None:
    values = known.to_dicts([1, 4])
    assert values[0]["id"] == "b"
    assert (values[0]["shard"], values[0]["record"], values[0]["link"]) == ("known.tfrecord", 1, None)
    assert [(c["path"], c["true"]) for c in values[0]["truth"]] == [("Food:Dessert", True)]
    predictions = [(c["path"], round(c["probability"], 2), c["true"]) for c in values[0]["predictions"]]
    # Food is named too, but Soup is more specific
    assert predictions == [
        ("Food:Soup", 0.7, False),
        ("Food:Dessert", 0.2, True),
        ("Sport", 0.1, False),
        ("Sport:Ball", 0.1, False),
    ]
    assert values[0]["verdict"] == "wrong"
    assert values[0]["loss"] == pytest.approx(0.5)
    assert values[0]["surprise"] == pytest.approx(0.8, abs=1e-3)
    assert values[0]["correlation"] == {"audio and video": pytest.approx(0.2)}
    assert (values[1]["verdict"], values[1]["truth"]) == (None, [])
    assert known.to_dicts([1], level=0)[0]["verdict"] == "right"
    assert known.to_dicts([2])[0]["correlation"] == {"audio and video": None}


def test_counts(known: Clips) -> None:
    assert known.counts.tolist() == [3, 2, 1, 2, 2]


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("VSa8", "https://data.yt8m.org/2/j/i/VS/VSa8.js"),
        ("dQw4w9WgXcQ", "https://www.youtube.com/watch?v=dQw4w9WgXcQ"),
        ("-_abcdefghi", "https://www.youtube.com/watch?v=-_abcdefghi"),
        ("film.mp4", None),
        ("a/b?", None),
        ("../x", None),
        ("", None),
        ("éééé", None),
    ],
)
def test_links_of_youtube8m(known: Clips, name: str, link: str | None) -> None:
    assert known.link(name) is None
    known.run = replace(known.run, features=FeatureSet(YOUTUBE8M_SIZES))
    assert known.link(name) == link


@pytest.mark.slow
def test_a_hundred_thousand_clips_are_quick(known: Clips) -> None:
    many = 100_000
    random = np.random.default_rng(0)
    tiled = replace(
        known.survey,
        ids=np.array([f"clip{i}".encode() for i in range(many)]),
        scores=random.normal(-4, 2, (many, len(known.taxonomy))).astype(np.float16),
        figures=random.random((many, 2), np.float32),
        bits=np.packbits(random.random((many, len(known.taxonomy))) < 0.3, axis=1),
    )
    clips = Clips(known.run, known.dataset, tiled)
    begun = time.process_time()
    for asked in (Filter(), Filter(category="Food", role="missed", verdict="wrong", low=0.2), Filter(search="99")):
        clips.choose(asked)
    assert time.process_time() - begun < 1.0


def test_real_records(real_data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = RunFolder(tmp_path / "run", recipe(), youtube8m(), FeatureSet(YOUTUBE8M_SIZES))
    made.save()
    made.save_weights(made.build())
    data = Dataset([real_data / "yt8m" / "video" / "validate0000.tfrecord"], made.labelling)
    clips = Clips(made, data, survey(made, data, tmp_path / "kept"))
    values = clips.to_dicts(clips.choose(Filter(category="Transport:Land:Car")))
    assert len(values) == clips.counts[clips.taxonomy.paths.index("Transport:Land:Car")] > 5
    for one in values:
        assert any(category["path"].startswith("Transport:Land:Car") for category in one["truth"])
        assert one["link"] == f"https://data.yt8m.org/2/j/i/{one['id'][:2]}/{one['id']}.js"
