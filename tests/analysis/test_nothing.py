"""A sweep of which nothing can be used has a page that says so, and what to do."""

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_sweep import World, world_trials, write_sweep

from analysis.report.page import write_report
from analysis.table.read import TableError
from rfscale import names


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (names.DIVERGED, ["All 4 runs diverged", "Lower training.learning_rate", "the &lt;loss&gt; is nan"]),
        (names.FAILED, ["No run of 4 is usable: 4 failed", "rfscale run lost.yaml"]),
    ],
)
def test_a_sweep_of_which_no_trial_can_be_used_gets_a_page(tmp_path: Path, status: str, said: list[str]) -> None:
    ended = {names.TAG_STATUS: status, names.TAG_REASON: "the <loss> is nan"}
    trials = [
        replace(t, tags={**t.tags, **ended}) for t in world_trials(World({"rf": 1.0, "v/cos": 1.1}, (1, 2), (0,)))
    ]
    uri = write_sweep(tmp_path, "lost", trials)
    with pytest.raises(TableError, match=r"no trial of sweep 'lost' can be used: of 4, .*report\.html"):
        write_report(uri, "lost", tmp_path / "out", command="rfscale run lost.yaml")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(words in page for words in [*said, "Nothing to compare", *(t.trial_id for t in trials)])
    assert len((tmp_path / "out" / "rejected.csv").read_text(encoding="utf-8").splitlines()) == 5
