"""The stages of R-CNN and SPPNet after their training."""

import pytest

from pipeline.cluster import Resources
from pipeline.training.config import TrainingScaling
from pipeline.training.detection.features import places


@pytest.mark.parametrize(
    ("cpus", "gpus", "scaling", "expected"),
    [
        (6, 0, {"num_workers": 8, "min_workers": 2}, 5),
        (6, 0, {"num_workers": 3}, 3),
        (7, 0, {"num_workers": 8, "cpus_per_worker": 3}, 2),
        (1, 0, {"num_workers": 4}, 1),
        (16, 4, {"num_workers": 8, "use_gpu": True}, 4),
        (4, 4, {"num_workers": 8, "use_gpu": True}, 3),
    ],
)
def test_processes_leave_a_cpu_for_the_tasks_that_fit_svms(cpus, gpus, scaling, expected):
    assert places(Resources(cpus=cpus, gpus=gpus, largest_node_cpus=cpus), TrainingScaling(**scaling)) == expected
