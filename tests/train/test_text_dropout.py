"""Each text encoder is dropped by itself in training, and can be left out of sampling."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rfscale.data import TextSpec, load_text_encoder
from rfscale.data.batch import encode
from rfscale.flow.noise import Stream, uniform, uniforms
from rfscale.run.images import draw
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.sweep_file import SweepError, parse_sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store
from rfscale.train import loop, placement, step
from rfscale.validation.samples import generate_images

CAPTIONS = ["a red circle above a blue square", "two crosses", "一只猫"]
ENCODERS = 3


def trial(text: dict[str, Any] | None = None, **training: Any) -> Trial:
    raw = {
        "name": "dropped",
        "question": "?",
        "data": "shapes",
        "text": {"length": 5, "width": 8, "encoders": ENCODERS, **(text or {})},
        "model": {"depths": [1], "width_per_depth": 16, "patch": 8},
        "formulations": ["rf"],
        "training": {"steps": 2, "batch": 8, "learning_rate": 1e-3, **training},
        "evaluation": {"images": 8},
        "seeds": [0],
    }
    return parse_sweep(raw, "dropped.yaml").trials[0]


def told(of: Trial, batch: int, number: int = 0) -> torch.Tensor:
    """Which encoders a step keeps, (batch, encoders): of a condition of ones, told by the first token of each."""
    condition = encode(load_text_encoder(of.text), ["a"] * batch)
    condition = type(condition)(torch.ones_like(condition.tokens), torch.ones_like(condition.pooled))
    found = step._told(condition, step.Recipe.of(of, placement.placed(Resources())), number, 0)
    spans = of.text.spans
    tokens = [found.tokens[:, slice(*span.tokens)] for span in spans]
    pooled = [found.pooled[:, slice(*span.pooled)] for span in spans]
    for one, other in zip(tokens, pooled, strict=True):
        assert torch.equal(one.flatten(1).min(1).values, one.flatten(1).max(1).values), "whole or not at all"
        assert torch.equal(one[:, 0, 0], other[:, 0]), "the tokens and the pooled vector together"
    return torch.stack([one[:, 0, 0] for one in tokens], dim=1).bool()


def inside(hits: int, trials: int, p: float) -> bool:
    return abs(hits - trials * p) < 4 * math.sqrt(trials * p * (1 - p))


def test_each_encoder_is_dropped_with_its_probability_and_by_itself() -> None:
    n, p = 40_000, 0.464
    dropped = ~told(trial({"dropout": p}), n)
    for j in range(ENCODERS):
        assert inside(int(dropped[:, j].sum()), n, p)
        for k in range(j):
            assert inside(int((dropped[:, j] & dropped[:, k]).sum()), n, p * p)
    assert inside(int(dropped.all(dim=1).sum()), n, p**3)
    assert trial({"dropout": p}).text_dropout == pytest.approx(0.0999, abs=1e-4)
    assert trial({"dropout": p}).parameters()["text_dropout"] == pytest.approx(p**3)


def test_what_is_dropped_is_a_function_of_seed_step_and_sample() -> None:
    one = trial({"dropout": 0.464})
    assert torch.equal(told(one, 50), told(one, 90)[:50])
    assert not torch.equal(told(one, 50), told(one, 50, number=1))
    drawn = uniforms(7, Stream.ENCODER_DROPOUT, 3, 0, 9, 6)
    assert torch.equal(drawn[4:], uniforms(7, Stream.ENCODER_DROPOUT, 3, 4, 5, 6))
    assert torch.equal(drawn[:, 0], uniform(7, Stream.ENCODER_DROPOUT, 3, 0, 9))
    assert len(drawn.unique()) == drawn.numel()


def test_without_it_all_are_dropped_at_once_as_before() -> None:
    kept = told(trial(), 4000)
    assert torch.equal(kept.any(dim=1), kept.all(dim=1))
    before = uniform(0, Stream.TEXT_DROPOUT, 0, 0, 4000) >= 0.1
    assert torch.equal(kept[:, 0], before)
    assert trial().text_dropout == 0.1
    assert "dropout" not in trial().text.record()
    assert trial({"dropout": 0.1}).trial_id != trial().trial_id


def test_both_ways_at_once_are_refused() -> None:
    with pytest.raises(SweepError, match=r"training\.text_dropout all of them at once; write one of the two"):
        trial({"dropout": 0.464}, text_dropout=0.2)


def test_leaving_an_encoder_out_is_its_part_zeroed() -> None:
    spec = TextSpec(length=5, width=8, encoders=ENCODERS)
    whole = encode(load_text_encoder(spec), CAPTIONS)
    without = whole.where_each(torch.tensor([[True, False, True]]), spec.spans)
    assert not without.tokens[:, 5:10].any()
    assert not without.pooled[:, 8:16].any()
    for first, last in ((0, 5), (10, 15)):
        assert torch.equal(without.tokens[:, first:last], whole.tokens[:, first:last])
    assert torch.equal(without.pooled[:, :8], whole.pooled[:, :8])
    assert torch.equal(without.pooled[:, 16:], whole.pooled[:, 16:])
    nothing = whole.where_each(torch.zeros(1, 3, dtype=torch.bool), spec.spans)
    assert not nothing.tokens.any()
    assert not nothing.pooled.any()


def test_sampling_without_an_encoder(tmp_path: Path) -> None:
    one = trial({"dropout": 0.464}, steps=20, learning_rate=0.03)
    store = Store(tmp_path)
    loop.train(one, store.trial(one.trial_id), Resources(), Samples(images=0))
    shown = {"count": 2, "steps": 2, "seed": 1}
    images = draw(store, one.trial_id, CAPTIONS, without=["hash2"], **shown)  # type: ignore[arg-type]
    condition = encode(load_text_encoder(one.text), [text for text in CAPTIONS for _ in range(2)])
    condition.tokens[:, 5:10] = 0
    condition.pooled[:, 8:16] = 0
    from rfscale.train.weights import load_model

    expected = generate_images(load_model(one, store.trial(one.trial_id), ema=True), one, condition, 2, 2.5, 1)
    assert torch.equal(images.drawn, expected)
    whole = draw(store, one.trial_id, CAPTIONS, **shown)  # type: ignore[arg-type]
    assert not torch.equal(images.drawn, whole.drawn)
    with pytest.raises(SweepError, match="has no text encoder 't5'; it reads its text with hash1, hash2 and hash3"):
        draw(store, one.trial_id, CAPTIONS, without=["t5"], **shown)  # type: ignore[arg-type]
