"""The network that a run begins with: fresh, or with weights from elsewhere."""

from torch import nn

from pipeline import bundle, models, storage
from pipeline.card import read_card
from pipeline.data.classes import Classes
from pipeline.errors import UserError
from pipeline.models.pretrained import Loaded, load_pretrained
from pipeline.training.config import TrainerConfig


def build_network(config: TrainerConfig, classes: Classes) -> tuple[nn.Module, Loaded | None]:
    """The network on the CPU, and what was loaded into it where `config.weights` says so.

    Raises:
        UserError: the weights are no checkpoint, or another architecture's.
    """
    network = models.configure(config.model, config.model_options).build(len(classes))
    return network, None if config.weights is None else load_weights(network, config.weights, config, classes)


def load_weights(network: nn.Module, url: str, config: TrainerConfig, classes: Classes) -> Loaded:
    """Load a torchvision checkpoint or a bundle into the network, where it fits.

    A bundle's scores are of its own classes: where these are not ours, the layers that give them stay as initialised.
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
