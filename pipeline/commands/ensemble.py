"""Join a trained DeconvNet and a trained FCN-8s into one bundle, their ensemble.

`segpipe segment` takes the result like any other model.

Examples:
    segpipe ensemble --deconvnet s3://models/deconvnet --fcn8s s3://models/fcn8s --output s3://models/both
    segpipe ensemble --deconvnet deconvnet --fcn8s fcn8s --output both --fusion product
"""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from pipeline import cli, storage
from pipeline.errors import UserError
from pipeline.storage import Url

if TYPE_CHECKING:
    from pipeline.card import Card


class EnsembleConfig(BaseModel):
    """The options of `segpipe ensemble`."""

    deconvnet: Url = Field(description="bundle of a deconvnet")
    fcn8s: Url = Field(description="bundle of an fcn8s with the same classes, preprocessing and width")
    output: Url = Field(description="folder for the bundle of the ensemble")
    fusion: Literal["mean", "product"] = Field(
        default="mean", description="mean of the probabilities (paper) or product of the scores (released code)"
    )


def join(config: EnsembleConfig) -> "Card":
    """Write the bundle of both networks.

    Raises:
        UserError: They are other networks, or do not fit together.
    """
    from pipeline import models
    from pipeline.bundle import load_bundle, save_bundle
    from pipeline.card import Card
    from pipeline.models.deconvnet import DeconvNet
    from pipeline.models.ensemble import Ensemble
    from pipeline.models.fcn import FCN

    (deconvnet, first), (fcn, second) = load_bundle(config.deconvnet), load_bundle(config.fcn8s)
    for network, kind, url in ((deconvnet, DeconvNet, config.deconvnet), (fcn, FCN, config.fcn8s)):
        if not isinstance(network, kind):
            raise UserError(f"bundle {storage.redact(url)}: expected a {kind.__name__}")
    for field in ("classes", "preprocessing"):
        if getattr(first, field) != getattr(second, field):
            raise UserError(f"the two bundles have different {field}")
    # FCN's options are the ensemble's; one that it does not have, such as stride 32, does not fit.
    options = models.configure(second.architecture, second.options).model_dump(exclude={"stride"})
    options["fusion"] = config.fusion
    ensemble = models.configure("deconvnet_fcn8s", options).build(len(first.classes))
    assert isinstance(ensemble, Ensemble)
    try:
        ensemble.deconvnet.load_state_dict(deconvnet.state_dict())
        ensemble.fcn.load_state_dict(fcn.state_dict())
    except RuntimeError:
        raise UserError(
            "the two bundles do not fit together: expected a DeconvNet and an FCN-8s of one width"
        ) from None
    card = Card(
        architecture="deconvnet_fcn8s",
        options=options,
        classes=first.classes,
        preprocessing=first.preprocessing,
        training={"deconvnet": first.training, "fcn8s": second.training},
    )
    return save_bundle(config.output, ensemble, card)


CONFIG = EnsembleConfig


def main(argv: list[str]) -> None:
    """Join two bundles."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    card = join(config)
    print(f"bundle: {config.output} ({len(card.classes)} classes, {config.fusion})")
