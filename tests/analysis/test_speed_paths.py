"""What was made fast gives what the plain way gives."""

import numpy as np
import pytest
from scipy import stats

from analysis.compare.concordance import kendall_tau
from analysis.laws import solve
from analysis.laws.curves import Layout
from analysis.laws.forms import LogSumExp

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("own", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("delta", [np.inf, 0.02])
def test_the_sums_over_parts_are_those_over_all_points(own: tuple[bool, bool], delta: float) -> None:
    """Gradient, Hessian and majoriser of the law of four arms, against a law that knows of no parts."""
    arm = RNG.integers(0, 4, 90)
    model = Layout(4, *own).bind(arm, RNG.normal(size=90), RNG.normal(size=90))
    assert sorted(len(part.points) for part in model.parts) == sorted(np.bincount(arm))
    assert {len(part.parameters) for part in model.parts} == {5}
    theta = RNG.normal(0.3, 0.1, (6, len(model.names)))
    y, w = RNG.normal(size=(6, 90)), RNG.uniform(0.5, 2.0, (6, 90))
    by_parts = solve._quadratic(model, model.forward(theta), y, w, delta)
    at_once = solve._quadratic(_whole(model), model.forward(theta), y, w, delta)
    for one, other in zip(by_parts, at_once, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def _whole(model: LogSumExp) -> LogSumExp:
    """The same law, of which nothing is known of its points."""
    plain = LogSumExp(model.names, model.design, model.offset, model.constant)
    plain.__dict__["parts"] = ()
    return plain


def test_kendalls_tau_is_scipys() -> None:
    for n in range(2, 12):
        for levels in (2, 3, 50):
            x, y = RNG.integers(0, levels, (2, n)).astype(float)
            ours, theirs = kendall_tau(x.tolist(), y.tolist()), stats.kendalltau(x, y).statistic
            assert ours == theirs or (np.isnan(ours) and np.isnan(theirs))
