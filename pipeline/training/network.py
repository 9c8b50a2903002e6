"""The network at the start of a run: newly initialised, or with given weights."""

from torch import nn

from pipeline import bundle, models, storage
from pipeline.card import read_card
from pipeline.data.classes import Classes
from pipeline.errors import UserError
from pipeline.models.pretrained import Loaded, load_pretrained
from pipeline.training.config import TrainerConfig


def build_network(config: TrainerConfig, classes: Classes) -> tuple[nn.Module, Loaded | None]:
    """Return the network on the CPU, and a report on the weights loaded into it, or None without `config.weights`.

    Raises:
        UserError: The weights are not a checkpoint, or do not fit the architecture.
    """
    network = models.configure(config.model, config.model_options).build(len(classes))
    return network, None if config.weights is None else load_weights(network, config.weights, config, classes)


def load_weights(network: nn.Module, url: str, config: TrainerConfig, classes: Classes) -> Loaded:
    """Load the tensors of a torchvision checkpoint or a bundle that fit the network.

    If a bundle has other classes than this run, the layers that give the classes' scores keep their initialisation.

    Args:
        network: Network to load the weights into.
        url: The checkpoint or bundle.
        config: Configuration of the run.
        classes: Classes of the data set.

    Raises:
        UserError: The weights are not a checkpoint, or do not fit the architecture.
    """
    checkpoint = bundle.read_checkpoint(url)
    if not url.endswith(bundle.WEIGHT_SUFFIXES) and read_card(url).classes.names != classes.names:
        architecture = models.configure(config.model, config.model_options)
        for name in models.score_layers(architecture, len(classes)):
            checkpoint.pop(name, None)
    try:
        return load_pretrained(network, checkpoint)
    except ValueError as error:
        raise UserError(f"weights {storage.redact(url)}: {error}") from None
