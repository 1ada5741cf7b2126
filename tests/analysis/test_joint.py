"""The joint law of a sweep's arms: recovered, its shared exponents tested, narrower than separate fits, covering."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from analysis.laws import FitError, fit
from analysis.laws.curves import Curves
from analysis.laws.effects import Noise, Weighing, effects
from analysis.laws.joint import fit_joint

E, ALPHA, BETA = 0.06, 0.56, 0.95
SIZES = (25_500.0, 165_348.0, 543_948.0, 1_285_716.0)
SAMPLES = tuple(32.0 * step for step in (65, 113, 197, 343, 600))
ARMS: Mapping[str, tuple[float, float]] = {"eps": (66.0, 800.0), "rf": (60.0, 500.0), "rf/lognorm": (48.0, 420.0)}


def curves(
    seed: int = 0,
    *,
    arms: Mapping[str, tuple[float, float]] = ARMS,
    sizes: tuple[float, ...] = SIZES,
    seeds: int = 1,
    trial: float = 0.0,
    cell: float = 0.0,
    point: float = 0.0,
    alphas: Mapping[str, float] | None = None,
) -> Curves:
    """Curves of a known law; noise (sd of the log loss) of a size and seed, of a trial, and of a point."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in sizes:
        for k in range(seeds):
            shared = cell * rng.standard_normal()
            for name, (a, b) in arms.items():
                shift = shared + trial * rng.standard_normal()
                for d in SAMPLES:
                    loss = E + a / n ** (alphas or {}).get(name, ALPHA) + b / d**BETA
                    noise = shift + point * rng.standard_normal()
                    rows.append((name, n, d, loss * np.exp(noise), f"{name} {n} {k}", k))
    return Curves.of(*zip(*rows, strict=True))


def test_a_known_law_is_recovered_with_the_efficiencies_of_its_arms() -> None:
    law = fit_joint(curves())
    for arm, (a, b) in ARMS.items():
        truth = {"E": E, "A": a, "alpha": ALPHA, "B": b, "beta": BETA}
        assert law.estimate(arm) == pytest.approx(truth, rel=1e-4)
    found = law.efficiency("rf/lognorm", "eps", 1e6, 2e4)
    in_n, in_d = (66 / 48) ** (1 / ALPHA), (800 / 420) ** (1 / BETA)
    assert found.n[0] == pytest.approx(in_n, rel=1e-3)
    assert found.d[0] == pytest.approx(in_d, rel=1e-3)
    k = found.compute[0]
    eps = law.law("eps", 1e6 * np.sqrt(k), 2e4 * np.sqrt(k))
    assert eps == pytest.approx(law.law("rf/lognorm", 1e6, 2e4), rel=1e-6), "that much compute, the same loss"
    value, sides = law.efficiency("rf", "rf", 1e6, 2e4).compute
    assert (value, *sides) == pytest.approx((1.0, 1.0, 1.0))


def test_exponents_are_shared_unless_a_test_refuses_it() -> None:
    alike = fit_joint(curves(point=0.01, seeds=2))
    assert alike.p_alpha > 0.01 < alike.p_beta
    assert alike.estimate("eps")["alpha"] == alike.estimate("rf")["alpha"]
    other = fit_joint(
        curves(point=0.003, seeds=2, arms={"eps": (4.0, 800.0), **dict(list(ARMS.items())[1:])}, alphas={"eps": 0.3})
    )
    assert other.p_alpha < 0.01
    assert other.estimate("eps")["alpha"] == pytest.approx(0.3, abs=0.05)
    assert other.estimate("rf")["alpha"] == pytest.approx(ALPHA, abs=0.1)
    assert other.estimate("eps")["E"] == other.estimate("rf")["E"], "the floor is that of the data"


@pytest.mark.parametrize(
    ("trial", "cell", "point"), [(0.01, 0.0, 0.0), (0.0, 0.0, 0.01), (0.007, 0.007, 0.005), (0.003, 0.01, 0.003)]
)
def test_intervals_cover_whatever_shares_its_noise(trial: float, cell: float, point: float) -> None:
    """12 worlds: the intervals of alpha and of the largest size miss at most two each (P < 2 % at nominal coverage)."""
    alpha, held = [], []
    for draw in range(12):
        world = curves(100 + draw, trial=trial, cell=cell, point=point)
        law = fit_joint(world.where(world.n < max(SIZES)), 300)
        low, high = law.interval("rf")["alpha"]
        alpha.append(low <= ALPHA <= high)
        last = (world.n == max(SIZES)) & (world.d == SAMPLES[-1]) & (world.arm == world.arms.index("rf"))
        at = law.predict("rf", max(SIZES), SAMPLES[-1])
        held.append(at.prediction_low[0] <= world.loss[last][0] <= at.prediction_high[0])
    assert sum(alpha) >= 10
    assert sum(held) >= 10


@pytest.mark.parametrize("n_sizes", range(3, 9))
def test_exponents_cover_in_one_seed_ladders_of_any_number_of_sizes(n_sizes: int) -> None:
    """Of 16 worlds the intervals of alpha and beta miss at most two each: with E forced to 0 they miss all."""
    sizes = tuple(np.geomspace(SIZES[0], SIZES[-1], n_sizes))
    inside = []
    for draw in range(16):
        interval = fit_joint(curves(300 + draw, sizes=sizes, trial=0.007, point=0.007), 300).interval("rf")
        inside.append(
            [low <= truth <= high for (low, high), truth in ((interval["alpha"], ALPHA), (interval["beta"], BETA))]
        )
    assert np.min(np.sum(inside, axis=0)) >= 14


def test_the_interval_of_alpha_is_at_most_half_of_that_of_separate_fits() -> None:
    ratio = []
    for draw in range(8):
        world = curves(200 + draw, trial=0.007, point=0.007)
        low, high = fit_joint(world, 300).interval("rf")["alpha"]
        own = world.where(world.arm == world.arms.index("rf"))
        alone = fit(
            "chinchilla", {"N": own.n, "D": own.d, "loss": own.loss}, groups=own.trial, bootstrap=0, checks=False
        )
        ratio.append((high - low) / (alone.interval["alpha"][1] - alone.interval["alpha"][0]))
    assert np.median(ratio) <= 0.5


def test_more_points_on_the_same_curves_do_not_tell_what_trials_share() -> None:
    """Twice the points, the same noise of each trial: the interval must not shrink as if they were new trials."""
    world = curves(3, trial=0.01, point=0.001)
    twice = np.concatenate([np.arange(len(world.loss))] * 2)
    double = Curves(
        world.arms, world.arm[twice], world.n[twice], world.d[twice], world.loss[twice], world.trial[twice],
        world.cell[twice],
    )  # fmt: skip
    width = [np.ptp(fit_joint(c).interval("rf")["alpha"]) for c in (world, double)]
    assert width[1] > 0.9 * width[0]


def test_missing_trials_are_missing_and_nothing_else() -> None:
    world = curves(point=0.002)
    lost = world.where(~((world.arm == 0) & (world.n == max(SIZES))))
    law = fit_joint(lost)
    assert law.estimate("eps")["A"] == pytest.approx(66.0, rel=0.25)
    assert law.law("eps", max(SIZES), SAMPLES[-1])[0] == pytest.approx(
        E + 66 / max(SIZES) ** ALPHA + 800 / SAMPLES[-1] ** BETA, rel=0.01
    )


def test_what_cannot_hold_a_law_is_refused_in_a_sentence() -> None:
    with pytest.raises(FitError, match="needs 3 sizes, there are 2"):
        fit_joint(curves(sizes=SIZES[:2]))
    with pytest.raises(FitError, match="no arm 'other'"):
        fit_joint(curves()).law("other", 1e6, 1e4)
    with pytest.raises(FitError, match="positive finite"):
        fit_joint(curves()).predict("rf", 0.0, 1e4)
    with pytest.raises(FitError, match="the loss must be positive"):
        Curves.of(["a"], [1.0], [1.0], [np.nan], ["t"], [0])


def test_the_weighing_is_the_inverse_of_the_covariance_it_describes() -> None:
    rng = np.random.default_rng(0)
    noise = Noise(rng.uniform(0.5, 2.0, 12), np.ones(12), np.repeat(np.arange(6), 2), np.repeat(np.arange(3), 4))
    x = rng.standard_normal((12, 3))
    lam, rho = 2.0, 0.25
    trial, cell = (np.equal.outer(index, index) for index in (noise.trial, noise.cell))
    covariance = np.diag(noise.scale**2) + lam * (1 - rho) * trial + lam * rho * cell
    weighing = Weighing.of(noise, lam, rho)
    assert weighing.gram(x) == pytest.approx(x.T @ np.linalg.solve(covariance, x))
    assert weighing.log_determinant == pytest.approx(np.linalg.slogdet(covariance)[1])


def test_the_noise_that_is_drawn_has_the_size_of_that_which_was_seen() -> None:
    """40 trials in 10 cells: sd .02 of cells, .01 of trials, .005 of points, within a third."""
    rng = np.random.default_rng(1)
    trial, cell = np.repeat(np.arange(40), 5), np.repeat(np.arange(10), 20)
    residual = (
        0.02 * rng.standard_normal(10)[cell] + 0.01 * rng.standard_normal(40)[trial] + 0.005 * rng.standard_normal(200)
    )
    found = effects(np.ones((200, 1)), residual - residual.mean(), Noise(np.ones(200), np.ones(200), trial, cell))
    noise, new = found.draw(rng, 4000)
    within = noise - np.stack([noise[:, trial == t].mean(axis=1) for t in range(40)], axis=1)[:, trial]
    assert np.sqrt(np.mean(within**2) * 5 / 4) == pytest.approx(0.005, rel=0.33)
    assert np.std(new[:, 0]) == pytest.approx(np.hypot(0.02, 0.01), rel=0.33)
    assert np.std(new[:, 1]) == pytest.approx(0.005, rel=0.33)
