"""The loop of a worker: what ends it."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from pipeline.errors import UserError
from pipeline.predict.device import NotFiniteError
from pipeline.training.loop import validate_together


def test_scores_that_are_not_finite_in_validation_are_a_line_about_the_learning_rate():
    """The last step of an epoch may diverge with a finite loss before it."""

    def validate(*_: Any) -> None:
        raise NotFiniteError("the network's scores or boxes are not finite")

    learner: Any = SimpleNamespace(
        evaluated=nn.Linear(1, 1), config=SimpleNamespace(optimiser=SimpleNamespace(lr=0.01)), device=None
    )
    job: Any = SimpleNamespace(task=SimpleNamespace(validate=validate, validation=[1, 2]))
    with pytest.raises(UserError, match=r"scores or boxes are not finite in validation.* than 0\.01; "):
        validate_together(learner, object(), job)
