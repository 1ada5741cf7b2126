"""The judge of the shapes world: its scores and their ceilings, its exam, and its refusal below the bar."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rfscale import names
from rfscale.data.base import FloatArray
from rfscale.data.endless import validation_indices
from rfscale.data.shapes import Relation, Scene, SceneObject, render, scenes
from rfscale.data.spec import DigitsData, ShapesData
from rfscale.judges import ShapesJudge
from rfscale.judges.base import JudgeError, Score
from rfscale.judges.shapes import judge as module
from rfscale.judges.shapes import prompts as shapes_prompts
from rfscale.judges.shapes.encoder import Recipe, load_encoder
from rfscale.judges.shapes.judge import Exam, ShapesWorldJudge, agrees, exam, first_captions, load_shapes

DATA = ShapesData(name="shapes", resolution=16)
BRIEF = Recipe(16, 4, steps=60, batch=128)  # a few seconds of training: far below the bar, far above chance
SPEC = ShapesJudge(images=192, prompts=60)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="module")
def judge(cache: Path) -> ShapesWorldJudge:
    """A judge that was let through although its training was brief."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RETRIEVAL_BAR", 0.0)
        return load_shapes(SPEC, DATA, cache, recipe=BRIEF)


class Truth:
    """A network that draws what is asked for, and as much noise on it as `noise`; `noise` = inf draws noise alone."""

    def __init__(self, judge: ShapesWorldJudge, noise: float = 0.0) -> None:
        prompts = shapes_prompts.geneval_prompts(judge.spec.prompts, 4)
        self.worlds = [scenes(validation_indices(judge.spec.images)), shapes_prompts.true_scenes(prompts, 4)]
        self.noise = noise
        self.asked: list[list[str]] = []

    def __call__(self, captions: Sequence[str]) -> FloatArray:
        images = render(self.worlds[len(self.asked)], 16)
        self.asked.append(list(captions))
        eps = np.random.default_rng(len(self.asked)).standard_normal(images.shape).astype(np.float32)
        return eps if math.isinf(self.noise) else images + np.float32(self.noise) * eps


def scored(judge: ShapesWorldJudge, noise: float = 0.0) -> dict[str, Score]:
    return {score.name: score for score in judge.score(Truth(judge, noise))}


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_names_and_truth_meets_its_ceiling(judge: ShapesWorldJudge) -> None:
    found = scored(judge)
    tasks = {f"geneval_{task}" for task in names.GENEVAL_TASKS}
    assert set(found) == {"fid", "kid", "fid_infinity", "clip_score", "read_exactly", "geneval"} | tasks
    assert set(found) <= set(names.QUALITY)
    for score in found.values():
        assert score.value == score.ceiling, score
        assert score.se >= 0, score
    assert found["read_exactly"].value >= 0.97
    assert found["geneval"].value >= 0.98


def test_more_noise_scores_worse_on_every_metric(judge: ShapesWorldJudge) -> None:
    ladder = [scored(judge, noise) for noise in (0.0, 0.1, 0.3, math.inf)]
    for name in ladder[0]:
        values = [found[name].value for found in ladder]
        worse = values if names.QUALITY[name].better == "lower" else [-value for value in values]
        assert worse == sorted(worse), (name, values)
        assert worse[1] < worse[2] < worse[3] or values[3] == 0.0, (name, values)
        assert worse[0] < worse[3], (name, values)
        assert len({found[name].ceiling for found in ladder}) == 1


def test_what_is_asked_for_captions_once_and_prompts_once(judge: ShapesWorldJudge) -> None:
    truth = Truth(judge)
    list(judge.score(truth))
    captions = [scene.caption for scene in scenes(validation_indices(SPEC.images))]
    assert truth.asked == [captions, [prompt["prompt"] for prompt in shapes_prompts.geneval_prompts(SPEC.prompts, 4)]]


def binomial_se(share: float) -> float:
    return (share * (1 - share) / SPEC.images) ** 0.5


def test_standard_errors_of_shares_and_means(judge: ShapesWorldJudge) -> None:
    found = scored(judge, 0.3)
    assert 0 < found["read_exactly"].value < 1
    assert found["read_exactly"].se == pytest.approx(binomial_se(found["read_exactly"].value), rel=0.03)
    none = scored(judge, math.inf)["read_exactly"]
    assert (none.value, none.se) == (0.0, pytest.approx(1.96 / 2**0.5 / SPEC.images, rel=0.05))
    world = scenes(validation_indices(SPEC.images))
    images = Truth(judge, 0.3)([]).clip(-1, 1)
    texts = judge.encoder.encode_texts([scene.caption for scene in world])
    cosines = np.sum(judge.encoder.encode_images(images) * texts, axis=1)
    assert found["clip_score"].value == pytest.approx(cosines.mean(), abs=1e-6)
    assert found["clip_score"].se == pytest.approx(np.std(cosines, ddof=1) / SPEC.images**0.5, rel=1e-4)


def test_the_reference_holds_none_of_the_scenes_that_are_drawn(judge: ShapesWorldJudge) -> None:
    """Else the ceiling of FID would be the distance of a set from itself."""
    assert scored(judge)["fid"].value > 0.01
    drawn = judge.encoder.features(render(scenes(validation_indices(SPEC.images)), 16))
    reference = module._reference(judge.encoder, SPEC.images)
    assert reference.shape == (2048, 64)
    assert np.abs(reference[:, None] - drawn[None, :20]).max(axis=2).min() > 1e-3


def test_ceilings_are_computed_once(judge: ShapesWorldJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scored(judge, 0.1)
    path = judge.encoder.folder / f"ceiling-{SPEC.images}-{SPEC.prompts}.json"
    kept = path.read_text()
    monkeypatch.setattr(ShapesWorldJudge, "_true_scores", None)
    assert scored(judge, 0.1) == first
    monkeypatch.undo()
    path.write_text(kept[:-30])  # cut short
    assert scored(judge, 0.1) == first
    assert path.read_text() == kept


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((SPEC.images, 3, 8, 8)), r"asked for images of shape \(192, 3, 16, 16\) and got \(192, 3, 8, 8\)"),
        (np.full((SPEC.images, 3, 16, 16), np.nan), "NaN"),
    ],
    ids=["shape", "nan"],
)
def test_images_that_cannot_be_judged(images: FloatArray, message: str, judge: ShapesWorldJudge) -> None:
    with pytest.raises(JudgeError, match=message):
        list(judge.score(lambda _: images))


def test_label_and_identity(judge: ShapesWorldJudge) -> None:
    assert judge.label == "shapes-192-60"
    identity = judge.identity
    assert judge.encoder.checksum in json.dumps(identity)
    assert identity["exam"]["retrieval"] == judge.exam.retrieval  # type: ignore[index, call-overload]


# --- what a caption asks for ------------------------------------------------------------------------------------------

RED, BLUE = SceneObject("ring", "red", 0.2, 0.5, 0.3), SceneObject("square", "blue", 0.8, 0.5, 0.3)
GREEN = replace(BLUE, colour="green")


@pytest.mark.parametrize(
    ("caption", "relation", "found", "right"),
    [
        ("a red ring and a blue square", None, (BLUE, RED), True),
        ("a red ring and a blue square", None, (GREEN, RED), False),
        ("a ring and a square", None, (GREEN, RED), True),
        ("a ring and a square", None, (RED,), False),
        ("a ring and a square", None, (RED, BLUE, GREEN), False),
        ("a ring and a square", None, (), False),
        ("a ring left of a square", Relation("left of", (0,), (1,)), (GREEN, RED), True),
        (
            "a ring left of a square",
            Relation("left of", (0,), (1,)),
            (replace(RED, x=0.8), replace(BLUE, x=0.2)),
            False,
        ),
        ("a square right of a ring", Relation("right of", (1,), (0,)), (BLUE, RED), True),
        ("a square right of a ring", Relation("right of", (1,), (0,)), (replace(BLUE, x=0.2, y=0.9), RED), False),
    ],
)
def test_found_objects_agree_with_the_caption(
    caption: str, relation: Relation | None, found: tuple[SceneObject, ...], right: bool
) -> None:
    assert agrees(Scene((RED, BLUE), caption, relation), found) is right


def test_every_scene_agrees_with_itself_and_hardly_ever_with_the_next() -> None:
    world = scenes(validation_indices(1000))
    assert all(agrees(scene, scene.objects[::-1]) for scene in world)
    assert sum(agrees(a, b.objects) for a, b in pairwise(world)) < 30


def test_every_object_of_a_group_must_stand_in_the_relation() -> None:
    above = replace(RED, x=0.8, y=0.1)
    scene = Scene((RED, replace(RED, y=0.8), BLUE), "two rings left of a square", Relation("left of", (0, 1), (2,)))
    assert agrees(scene, scene.objects)
    assert not agrees(scene, (RED, above, BLUE))


# --- the exam ---------------------------------------------------------------------------------------------------------


def test_first_captions_by_hand() -> None:
    images = np.eye(4, dtype=np.float32)
    texts = np.array([[0.9, 0, 0, 0], [0.8, 0, 0, 0], [0, 0.7, 0.5, 0], [1, 0, 0, 0.1]], dtype=np.float32)
    assert first_captions(images, texts, candidates=2).tolist() == [0, 2, 2, 3]
    assert first_captions(images, texts, candidates=64).tolist() == [3, 2, 2, 3]


def test_the_exam_of_a_brief_training(judge: ShapesWorldJudge) -> None:
    found = judge.exam
    assert found.reader >= 0.995
    assert 1 / 64 < found.retrieval <= found.retrieval_true < 0.95
    assert 0.5 < found.foils < 1
    assert found.clip_score > found.clip_score_shuffled + 0.2
    assert found.geneval["geneval"] >= 0.98
    assert found.geneval_shuffled["geneval"] < 0.6
    assert set(found.geneval) == set(found.geneval_shuffled)
    text = found.text()
    for value in (found.retrieval, found.clip_score, found.fid, *found.robustness.values(), *found.geneval.values()):
        assert f"{value:.4f}" in text
    assert text.count(">=") == 3
    assert "It does not pass: the judge `shapes` retrieves" in text
    assert replace(found, retrieval_true=1.0).text().endswith("It passes: it may score.")
    assert Exam(**found.to_dict()) == found  # type: ignore[arg-type]


def test_a_judge_below_its_bar_refuses(judge: ShapesWorldJudge, cache: Path) -> None:
    with pytest.raises(
        JudgeError, match=r"true caption among 64 for only \d\d\.\d+% .* its bar is 95\.0%; set another"
    ):
        load_shapes(SPEC, DATA, cache, recipe=BRIEF)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"reader": 0.9949}, "reads only 99.49% of true images exactly at 16 pixels, and its bar is 99.5%"),
        ({"reader": math.nan}, "reads only"),
        ({"retrieval_true": 0.9499}, "retrieves a true caption among 64 for only 94.99%"),
        ({"geneval": {"geneval": 0.979}}, "only 97.90% of the GenEval prompts"),
    ],
    ids=["passes", "reader", "nan", "retrieval", "geneval"],
)
def test_each_bar(change: dict[str, object], message: str | None, judge: ShapesWorldJudge) -> None:
    good = replace(judge.exam, reader=0.995, retrieval_true=0.95, geneval={"geneval": 0.98})
    found = replace(good, **change)  # type: ignore[arg-type]
    if message is None:
        found.check()
    else:
        with pytest.raises(JudgeError, match=message):
            found.check()


def test_a_resolution_that_cannot_be_read_is_refused_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_encoder", None)
    with pytest.raises(JudgeError, match="at 8 pixels"):
        load_shapes(SPEC, ShapesData(name="shapes", resolution=8), tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="cannot score data `digits`"):
        load_shapes(SPEC, DigitsData(name="digits"), tmp_path)


def test_the_exam_is_kept_until_what_it_depends_on_changes(
    judge: ShapesWorldJudge, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRIEVAL_BAR", 0.0)
    taken: list[int] = []

    def examine(_: object, count: int) -> Exam:
        taken.append(count)
        return judge.exam

    monkeypatch.setattr(module, "examine", examine)
    assert asdict(load_shapes(SPEC, DATA, cache, recipe=BRIEF).exam) == asdict(judge.exam)
    assert taken == []
    monkeypatch.setattr(module, "_code", lambda: "other code")
    for _ in range(2):
        load_shapes(SPEC, DATA, cache, recipe=BRIEF)
    assert taken == [512]
    (judge.encoder.folder / "exam-512.json").write_text("{")
    load_shapes(SPEC, DATA, cache, recipe=BRIEF)
    assert taken == [512, 512]


def test_progress_is_told_at_first_use_and_only_then(
    judge: ShapesWorldJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRIEVAL_BAR", 0.0)
    monkeypatch.setattr(module, "examine", lambda *_: judge.exam)
    told: list[tuple[str, int, int]] = []
    for _ in range(2):
        load_shapes(
            SPEC, DATA, tmp_path, progress=lambda *step: told.append(step), recipe=Recipe(16, 4, steps=2, batch=8)
        )
    assert told == [("training the encoder of the shapes world", step, 2) for step in (1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [16, 32])
def test_the_judge_passes_its_full_exam(resolution: int, tmp_path: Path) -> None:
    found = exam(resolution, 4, tmp_path)
    print(found.text())
    found.check()
    assert found.scenes == 2000
    assert found.reader >= 0.995
    assert found.retrieval >= 0.95
    assert found.relations >= 0.95
    assert found.geneval["geneval"] >= 0.98
    assert found.clip_score > found.clip_score_shuffled + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("max_objects", [1, 2, 3])
def test_the_judge_passes_in_smaller_worlds(max_objects: int, tmp_path: Path) -> None:
    """There a caption has often a twin that says less or more of the same image, which no judge could rank below it."""
    encoder = load_encoder(tmp_path, 16, max_objects)
    module.examine(encoder, 2000).check()
