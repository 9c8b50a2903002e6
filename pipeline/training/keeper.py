"""What an epoch leaves on storage."""

from torch import Tensor

from pipeline import bundle
from pipeline.classes import Classes
from pipeline.training import distributed
from pipeline.training.checkpoints import Progress
from pipeline.training.config import TrainConfig
from pipeline.training.learner import Learner
from pipeline.training.records import write_records, write_validation
from pipeline.training.validation import Validated


class Keeper:
    """Writes what an epoch leaves on storage; made before the network learns on, called in the background.

    The bundle if the epoch is the best by mIoU, and the records: before the checkpoint, so that a run that dies in
    between does the epoch again and writes the same.
    """

    def __init__(
        self, learner: Learner, progress: Progress, validated: Validated, config: TrainConfig, classes: Classes
    ):
        self._config = config
        self._classes = classes
        self._records = list(progress.records)
        self._validated = validated
        self._weights: dict[str, Tensor] | None = None
        if progress.records[-1]["best"] and distributed.rank() == 0:
            state = learner.evaluated.state_dict()
            self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def __call__(self) -> None:
        config = self._config
        if self._weights is not None:
            card = bundle.Card(
                architecture=config.model,
                options=config.model_options,
                classes=self._classes,
                preprocessing=config.preprocessing,
                training={"config": config.model_dump(mode="json"), "record": self._records[-1]},
            )
            write_validation(config.output, self._validated.images)
            bundle.save_bundle(config.output, self._weights, card)
        write_records(config.output, self._records)
