"""A worker that dies while it starts does not end the training; other errors do."""

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError

from pipeline.errors import IncompleteError
from pipeline.training import restarts


class Trainer:
    """Stands for Ray Train: raises the given errors, one each time, and then is done."""

    def __init__(self, *errors: Exception):
        self.errors = list(errors)
        self.started = 0

    def __call__(self) -> "Trainer":
        self.started += 1
        return self

    def fit(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


def died() -> ControllerError:
    return ControllerError(ActorDiedError())


def test_the_training_starts_again(capsys):
    trainer = Trainer(died(), died())
    restarts.fit(trainer, restarts=3)
    assert trainer.started == 3
    assert capsys.readouterr().err.count("a worker died while it started") == 2


def test_it_does_not_start_again_for_ever():
    trainer = Trainer(*(died() for _ in range(9)))
    with pytest.raises(IncompleteError, match="the workers die while they start"):
        restarts.fit(trainer, restarts=1)
    assert trainer.started == 2


@pytest.mark.parametrize("error", [ControllerError(ValueError("mistake")), RuntimeError("other")], ids=str)
def test_another_error_ends_it(error):
    trainer = Trainer(error)
    with pytest.raises(type(error)):
        restarts.fit(trainer, restarts=3)
    assert trainer.started == 1
