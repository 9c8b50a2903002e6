"""The files that an epoch leaves on storage."""

import torch
from torch import Tensor

from pipeline import bundle
from pipeline.card import Card
from pipeline.secrets import redact_all
from pipeline.training import distributed
from pipeline.training.checkpoints import Progress
from pipeline.training.config import TrainerConfig
from pipeline.training.learner import Learner
from pipeline.training.records import write_records, write_validation
from pipeline.training.task import Validated


class EpochWriter:
    """Writes the records, and the bundle if the epoch is the best so far by its headline score.

    It copies the weights when it is constructed, before the network learns on, and writes in the background when it is
    called. The checkpoint follows, so a run that dies in between repeats the epoch and writes the same again.

    Args:
        learner: Learner after the epoch.
        progress: Progress that includes the epoch's record.
        validated: Results of the epoch's validation.
        config: Configuration of the run.
        card: Card of the bundle, without weights and training record.
    """

    def __init__(self, learner: Learner, progress: Progress, validated: Validated, config: TrainerConfig, card: Card):
        self._output = config.output
        self._records = list(progress.records)
        self._validated = validated
        options = redact_all(config.model_dump(mode="json"))
        self._card = card.model_copy(update={"training": {"config": options, "record": self._records[-1]}})
        self._weights: dict[str, Tensor] | None = None
        if progress.records[-1]["best"] and distributed.rank() == 0:
            state = learner.evaluated.state_dict()
            # Made contiguous here, because the background thread must not run torch's parallel loops
            # (docs/decisions.md).
            self._weights = {
                name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, tensor in state.items()
            }

    def __call__(self) -> None:
        """Write the files."""
        if self._weights is not None:
            write_validation(self._output, self._validated.rows)
            bundle.save_bundle(self._output, self._weights, self._card)
        write_records(self._output, self._records)
