"""The network of a run: its configuration, and the network at the start, newly initialised or with given weights."""

from torch import nn

from pipeline import bundle, models, storage
from pipeline.card import read_card
from pipeline.data.classes import Classes
from pipeline.errors import UserError
from pipeline.models.config import ModelConfig, ModelTask, configured
from pipeline.models.pretrained import Loaded, load_pretrained
from pipeline.training.config import TrainerConfig


def architecture_of(config: TrainerConfig, task: ModelTask) -> ModelConfig:
    """Return the configuration of the architecture that `--model` and `--model-options` name.

    Args:
        config: Configuration of the run.
        task: What the architecture must be made for.

    Raises:
        UserError: There is no such architecture or option, or the architecture is made for another task.
    """
    known = models.models_of(task)
    other = None if config.model in known else models.all_models().get(config.model)
    if other is not None:
        raise UserError(f"--model {config.model} is made for {other.task}; for {task} there are {', '.join(known)}")
    try:
        return configured(known, config.model, config.model_options)
    except ValueError as error:
        raise UserError(f"--model, --model-options: {error}") from None


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
