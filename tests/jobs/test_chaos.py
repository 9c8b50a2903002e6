"""A bulk run among faults, on three Ray nodes and a real S3 server: `benchmarks.chaos` in its smallest form.

The fixture `swift` is the store. The cluster is the benchmark's own, because its nodes are killed.
"""

import pytest

from benchmarks.chaos.benchmark import run_chaos
from benchmarks.chaos.episode import Episode
from benchmarks.chaos.table import format_outcomes

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.timeout(1800)]

IMAGES = 100
EPISODE = Episode(
    "test",
    {
        "helper process killed": 1,
        "predictor killed": 1,
        "images: 503": 1,
        "images: 30% cut, Content-Length to fit": 1,
    },
)


def test_nothing_is_lost_doubled_or_different(swift, tmp_path):
    (outcome,) = run_chaos([EPISODE], seed=1, images=IMAGES, pace=10, server=swift, folder=tmp_path, show=print)
    table = format_outcomes([outcome], seed=1, planned=4)
    assert (outcome.lost, outcome.doubled, outcome.different) == ([], [], []), table
    assert not outcome.findings, table
    assert sum(outcome.injected.values()) >= 2, table
