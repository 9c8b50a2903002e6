"""What an epoch leaves on storage."""

import torch
from torch import Tensor

from pipeline import bundle
from pipeline.card import Card
from pipeline.training import distributed
from pipeline.training.checkpoints import Progress
from pipeline.training.config import TrainerConfig
from pipeline.training.learner import Learner
from pipeline.training.records import write_records, write_validation
from pipeline.training.task import Validated


class EpochWriter:
    """Writes what an epoch leaves on storage; made before the network learns on, called in the background.

    The bundle if the epoch is the best by its headline score, and the records: before the checkpoint, so that a run
    that dies in between does the epoch again and writes the same.
    """

    def __init__(self, learner: Learner, progress: Progress, validated: Validated, config: TrainerConfig, card: Card):
        self._output = config.output
        self._records = list(progress.records)
        self._validated = validated
        self._card = card.model_copy(
            update={"training": {"config": config.model_dump(mode="json"), "record": self._records[-1]}}
        )
        self._weights: dict[str, Tensor] | None = None
        if progress.records[-1]["best"] and distributed.rank() == 0:
            state = learner.evaluated.state_dict()
            # Contiguous already here: the background thread must not run torch's parallel loops (docs/decisions.md).
            self._weights = {
                name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, tensor in state.items()
            }

    def __call__(self) -> None:
        if self._weights is not None:
            write_validation(self._output, self._validated.rows)
            bundle.save_bundle(self._output, self._weights, self._card)
        write_records(self._output, self._records)
