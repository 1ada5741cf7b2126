"""GenEval: its rule case by case, its summary, and the judge of the shapes world between its ceiling and chance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from rfscale.data import shapes
from rfscale.data.endless import COLOURS, train_indices, validation_indices
from rfscale.data.shapes import Scene, render, scenes
from rfscale.judges.base import JudgeError
from rfscale.judges.geneval.rule import (
    Box,
    Detected,
    Metadata,
    evaluate,
    load_metadata,
    relative_position,
    summary,
)
from rfscale.judges.shapes.prompts import detected, geneval_prompts, judge_images, true_scenes
from rfscale.judges.shapes.reader import Reading
from rfscale.names import GENEVAL_TASKS, QUALITY


def thing(class_: str, color: str = "red", x: float = 0.0, y: float = 0.0, score: float = 1.0) -> Detected:
    """An object with a box of side 10 around (x, y)."""
    return Detected(class_, color, (x - 5, y - 5, x + 5, y + 5), score)


def asked(tag: str, include: list[dict[str, object]], exclude: list[dict[str, object]] | None = None) -> Metadata:
    """Metadata as they come out of a file of GenEval's."""
    line: dict[str, object] = {"tag": tag, "include": include, "prompt": "a photo of ..."}
    return json.loads(json.dumps(line | ({"exclude": exclude} if exclude else {})))  # type: ignore[no-any-return]


# --- the rule ---------------------------------------------------------------------------------------------------------


def test_the_classes_asked_for_must_be_there_and_others_do_no_harm() -> None:
    two = asked("two_object", [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}])
    assert evaluate([thing("cat"), thing("dog")], two) == (True, "")
    assert evaluate([thing("cat"), thing("dog"), thing("dog"), thing("bench")], two)[0]
    assert evaluate([thing("dog"), thing("dog")], two) == (False, "expected cat>=1, found 0")
    assert evaluate([], two) == (False, "expected dog>=1, found 0\nexpected cat>=1, found 0")


def test_counting_is_exact_through_its_exclude_clause() -> None:
    three = asked("counting", [{"class": "dog", "count": 3}], [{"class": "dog", "count": 4}])
    verdicts = [evaluate([thing("dog")] * n, three)[0] for n in range(6)]
    assert verdicts == [False, False, False, True, False, False]
    assert evaluate([thing("dog")] * 5, three)[1] == "expected dog<4, found 5"
    assert evaluate([thing("dog")] * 3 + [thing("cat")] * 9, three)[0]


def test_colours_are_those_of_the_surest_objects_only() -> None:
    red = asked("colors", [{"class": "dog", "count": 1, "color": "red"}])
    sure_red = [thing("dog", "blue", score=0.4), thing("dog", "red", score=0.9)]
    sure_blue = [thing("dog", "blue", score=0.9), thing("dog", "red", score=0.4)]
    assert evaluate(sure_red, red)[0]
    assert evaluate(sure_blue, red) == (False, "expected red dog>=1, found blue")
    two_red = asked("colors", [{"class": "dog", "count": 2, "color": "red"}])
    assert not evaluate(sure_red, two_red)[0]
    assert evaluate([thing("dog"), thing("dog")], two_red)[0]


def test_attributes_must_be_bound_to_their_own_class() -> None:
    bound = asked(
        "color_attr",
        [{"class": "dog", "count": 1, "color": "red"}, {"class": "cat", "count": 1, "color": "blue"}],
    )
    assert evaluate([thing("dog", "red"), thing("cat", "blue")], bound)[0]
    assert not evaluate([thing("dog", "blue"), thing("cat", "red")], bound)[0]


def test_positions_hold_between_all_objects_of_both_clauses() -> None:
    left = asked("position", [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}])
    assert evaluate([thing("cat", x=50), thing("dog", x=0)], left)[0]
    assert evaluate([thing("cat", x=0), thing("dog", x=50)], left) == (
        False,
        "expected dog left of target, found right of",
    )
    assert evaluate([thing("cat"), thing("dog")], left)[1] == "expected dog left of target, found neither"
    assert evaluate([thing("dog")], left)[1] == "expected cat>=1, found 0\nno target for dog to be left of"
    many = asked("position", [{"class": "cat", "count": 2}, {"class": "dog", "count": 2, "position": ["left of", 0]}])
    cats, dogs = [thing("cat", x=50), thing("cat", x=80)], [thing("dog", x=0), thing("dog", x=20)]
    assert evaluate([*cats, *dogs], many)[0]
    assert not evaluate([cats[0], thing("cat", x=-40), *dogs], many)[0]
    assert not evaluate([*cats, dogs[0], thing("dog", x=120)], many)[0]


def test_an_unmatched_clause_is_no_target() -> None:
    line = asked(
        "position",
        [{"class": "cat", "count": 1, "color": "red"}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
    )
    objects = [thing("cat", "blue", x=50), thing("dog", x=0)]
    assert evaluate(objects, line)[1] == "expected red cat>=1, found blue\nno target for dog to be left of"


def test_relative_position_by_hand() -> None:
    middle: Box = (0, 0, 10, 10)
    assert relative_position((30, 0, 40, 10), middle) == {"right of"}
    assert relative_position((-30, 0, -20, 10), middle) == {"left of"}
    assert relative_position((0, -30, 10, -20), middle) == {"above"}
    assert relative_position((0, 30, 10, 40), middle) == {"below"}
    assert relative_position((30, 30, 40, 40), middle) == {"right of", "below"}
    assert relative_position(middle, middle) == set()
    # An offset of 4 along x; the widths 10 and 26 leave 4 - 3.6 = 0.4 of it, less than half.
    assert relative_position((-4, 0, 22, 10), middle) == set()
    # Wide and flat: only the widths shrink the offset along x, and only the heights that along y.
    assert relative_position((0, 12, 40, 14), (0, 0, 40, 2)) == {"below"}


def test_on_squares_it_is_the_relation_that_captions_tell() -> None:
    seen: Counter[frozenset[str]] = Counter()
    for scene in scenes(validation_indices(1500)):
        for a, b in permutations(scene.objects, 2):
            boxes = [detected(Reading(item, 1.0)).box for item in (a, b)]
            found = relative_position(*boxes)
            assert found == shapes.relative_position(a, b)
            seen[found] += 1
    assert len(seen) == 8


# --- the summary ------------------------------------------------------------------------------------------------------


def test_the_mean_is_over_tasks_and_not_over_images() -> None:
    results = [("single_object", True)] * 9 + [("single_object", False)] + [("counting", False)] * 2
    scores = {score.name: score for score in summary(results)}
    assert list(scores) == ["geneval_single_object", "geneval_counting", "geneval"]
    assert scores["geneval_single_object"].value == 0.9
    assert scores["geneval_counting"].value == 0.0
    assert scores["geneval"].value == 0.45
    parts = [scores[name].se for name in ("geneval_single_object", "geneval_counting")]
    assert scores["geneval"].se == pytest.approx(np.hypot(*parts) / 2)


def test_scores_have_declared_names_in_the_order_of_the_tasks() -> None:
    names = [score.name for score in summary([(task, True) for task in reversed(GENEVAL_TASKS)])]
    assert names == [*(f"geneval_{task}" for task in GENEVAL_TASKS), "geneval"]
    assert set(names) <= QUALITY.keys()


def test_the_standard_error_is_that_of_agresti_and_coull() -> None:
    def se(hits: int, trials: int) -> float:
        return summary([("colors", i < hits) for i in range(trials)])[0].se

    assert se(0, 40) == pytest.approx(se(40, 40))
    assert se(0, 40) > 0.02
    assert se(10, 40) == pytest.approx(((11.9208 / 43.8416) * (31.9208 / 43.8416) / 43.8416) ** 0.5, rel=1e-6)
    assert se(5000, 10000) == pytest.approx(0.005, rel=1e-3)  # the plain binomial one, with many images
    share = 0.97
    hits = np.random.default_rng(0).binomial(40, share, 4000)
    value, error = hits / 40, np.array([se(int(n), 40) for n in range(41)])[hits]
    assert np.mean(np.abs(value - share) < 1.96 * error) > 0.95  # the plain one covers it in 70 % of the cases


def test_a_summary_of_nothing_or_of_unknown_tasks_is_refused() -> None:
    with pytest.raises(JudgeError, match="no image"):
        summary([])
    with pytest.raises(JudgeError, match=r"the tags size.*single_object"):
        summary([("size", True)])


# --- the file ---------------------------------------------------------------------------------------------------------


def test_metadata_go_through_a_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "evaluation_metadata.jsonl"
    prompts = geneval_prompts(60, 4)
    path.write_text("".join(json.dumps(line) + "\n" for line in prompts) + "\n", encoding="utf-8")
    assert load_metadata(path) == prompts


GOOD = {"tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON"),
        ("[]", "line 2"),
        (json.dumps(GOOD | {"tag": "size"}), "line 2: there is no task 'size'"),
        (json.dumps(GOOD | {"include": [{"class": "dog"}]}), "line 2: include.0.count"),
        (json.dumps({"tag": "colors", "include": []}), "line 2: prompt"),
        (json.dumps(GOOD | {"include": [{"class": "dog", "count": 1, "position": ["on", 0]}]}), "line 2: position"),
        (json.dumps(GOOD | {"include": [{"class": "dog", "count": 1, "position": ["above", 0]}]}), "earlier clause"),
        (json.dumps(GOOD | {"include": [{"class": "dog", "count": 1, "position": ["above", -1]}]}), "earlier clause"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n", encoding="utf-8")
    with pytest.raises(JudgeError, match=message) as caught:
        load_metadata(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"none\.jsonl"):
        load_metadata(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(JudgeError, match=r"empty\.jsonl hold no prompt"):
        load_metadata(tmp_path / "empty.jsonl")


# --- prompts of the shapes world --------------------------------------------------------------------------------------


def captions_of(scene: Scene) -> Iterator[str]:
    """Every caption that the world's own grammar may give these objects."""
    for named in (0.0, 0.99):
        for related in (0.0, 0.99):
            for subject in np.arange(0.05, 1.0, 0.1):
                yield shapes._describe(scene.objects, named, related, float(subject)).caption


@pytest.mark.parametrize("max_objects", [1, 2, 3, 4])
def test_prompts_are_captions_that_the_world_itself_gives_their_true_scenes(max_objects: int) -> None:
    prompts = geneval_prompts(300, max_objects)
    for line, scene in zip(prompts, true_scenes(prompts, max_objects), strict=True):
        assert scene.caption == line["prompt"]
        assert line["prompt"] in set(captions_of(scene))


def test_prompts_occur_in_training() -> None:
    captions = {scene.caption for scene in scenes(train_indices(0, 0, 30_000))}
    plain = [line["prompt"] for line in geneval_prompts(480, 4) if line["tag"] != "color_attr"]
    assert set(plain) <= captions


def test_prompts_are_spread_evenly_over_tasks_kinds_and_colours() -> None:
    prompts = geneval_prompts(240, 4)
    assert Counter(line["tag"] for line in prompts) == dict.fromkeys(GENEVAL_TASKS, 40)
    assert prompts == geneval_prompts(240, 4) == geneval_prompts(600, 4)[:240]
    number = {task: Counter(line["prompt"] for line in prompts if line["tag"] == task) for task in GENEVAL_TASKS}
    assert {task: len(of_task) for task, of_task in number.items()} == {
        "single_object": 5,
        "two_object": 20,
        "counting": 15,
        "colors": 40,
        "position": 40,
        "color_attr": 40,
    }
    assert all(max(of_task.values()) - min(of_task.values()) <= 1 for of_task in number.values())
    colours = Counter(clause["color"] for line in prompts for clause in line["include"] if "color" in clause)
    assert set(colours) == set(COLOURS)
    relations = Counter(c["position"][0] for line in prompts for c in line["include"] if "position" in c)
    assert min(relations.values()) >= 5
    assert len(relations) == 4


def test_each_prompt_says_what_its_metadata_ask_for() -> None:
    by_tag = {line["tag"]: line for line in geneval_prompts(6, 4)}
    one, two, counting, colors, position, bound = (by_tag[task] for task in GENEVAL_TASKS)
    (a,) = one["include"]
    assert one["prompt"] == f"a {a['class']}"
    a, b = two["include"]
    assert two["prompt"] == f"a {a['class']} and a {b['class']}"
    (a,), (limit,) = counting["include"], counting["exclude"]
    assert (limit["class"], limit["count"]) == (a["class"], a["count"] + 1)
    assert counting["prompt"].startswith(("two", "three", "four")[a["count"] - 2] + " " + a["class"])
    (a,) = colors["include"]
    assert colors["prompt"].removeprefix("an ").removeprefix("a ") == f"{a['color']} {a['class']}"
    a, b = position["include"]
    assert position["prompt"] == f"a {b['class']} {b['position'][0]} a {a['class']}"
    assert b["position"][1] == 0
    a, b = bound["include"]
    assert [w for w in bound["prompt"].split() if w not in ("a", "an", "and")] == [
        a["color"],
        a["class"],
        b["color"],
        b["class"],
    ]


def test_small_worlds_are_asked_for_what_they_can_show() -> None:
    assert {line["tag"] for line in geneval_prompts(50, 1)} == {"single_object", "colors"}
    assert {line["tag"] for line in geneval_prompts(50, 2)} == set(GENEVAL_TASKS)
    assert max(c["count"] for line in geneval_prompts(200, 3) for c in line["include"]) == 3


# --- the judge is judged ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [16, 32])
def test_true_images_reach_the_ceiling_in_every_task(resolution: int) -> None:
    prompts = geneval_prompts(300, 4)
    scores = summary(judge_images(render(true_scenes(prompts, 4), resolution), prompts))
    assert len(scores) == 7
    assert min(score.value for score in scores) >= 0.99


def test_images_of_other_prompts_of_the_task_score_near_chance() -> None:
    prompts = geneval_prompts(600, 4)
    images = render(true_scenes(prompts, 4), 16)
    order = np.arange(len(prompts)).reshape(-1, 6)
    shuffled = np.random.default_rng(0).permuted(order, axis=0).ravel()
    score = {score.name: score.value for score in summary(judge_images(images[shuffled], prompts))}
    chance = {"single_object": 1 / 5, "two_object": 1 / 10, "counting": 1 / 15, "colors": 1 / 40, "position": 1 / 20}
    for task, expected in chance.items():  # four standard errors of 100 images
        assert abs(score[f"geneval_{task}"] - expected) < 4 * (expected * (1 - expected) / 100) ** 0.5
    assert score["geneval_color_attr"] <= 0.03
    assert score["geneval"] < 0.12


def test_noise_and_the_empty_ground_score_nothing() -> None:
    prompts = geneval_prompts(60, 4)
    noise = np.random.default_rng(0).uniform(-1, 1, (60, 3, 16, 16)).astype(np.float32)
    ground = np.broadcast_to(render([Scene((), "")], 16), noise.shape)
    for images in (noise, ground):
        assert not any(correct for _, correct in judge_images(images, prompts))


def test_true_scenes_show_what_is_asked_and_nothing_else_and_differ() -> None:
    prompts = geneval_prompts(240, 4)
    world = true_scenes(prompts, 4)
    for line, scene in zip(prompts, world, strict=True):
        assert len(scene.objects) == sum(clause["count"] for clause in line["include"])
        assert evaluate([detected(Reading(item, 1.0)) for item in scene.objects], line)[0]
    assert len({tuple((o.x, o.y) for o in scene.objects) for scene in world}) == len(world)
    assert world == true_scenes(prompts, 4)


def test_a_prompt_that_no_scene_shows_is_refused() -> None:
    with pytest.raises(JudgeError, match="up to 2 objects"):
        true_scenes([asked("counting", [{"class": "ring", "count": 3}])], 2)
