"""A bundle as an ONNX file, which onnxruntime must compute like PyTorch before it is stored.

image   uint8   [batch, height, width, 3], RGB as stored; the normalisation is part of the network
labels  int64   [batch, height, width], class indices
scores  float32 [batch, classes, height, width], logits at the resolution of the image
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import storage
from pipeline.bundle import load_bundle
from pipeline.card import Card
from pipeline.errors import UserError, one_line
from pipeline.models.upsampling import upsample

AGREEMENT = 0.999  # share of the pixels of each image whose label must be PyTorch's
TRACED = (2, 91, 133)  # batch, height, width of the example that is traced; no multiples, so that padding is traced
CHECKED = ((1, 96, 128), (2, 65, 97), (1, 224, 160), (3, 40, 250))  # sizes with which both are compared
AXES = ("batch", "height", "width")


class Check(NamedTuple):
    """The comparison of onnxruntime with PyTorch for a batch.

    Attributes:
        size: Batch, height, width.
        agreement: Share of the pixels with equal labels.
        error: Largest difference of a score, as a share of the scores' standard deviation.
    """

    size: tuple[int, int, int]
    agreement: float
    error: float


class Deployed(nn.Module):
    """A segmentation network with its normalisation and the enlargement of its scores.

    Args:
        network: The network.
        card: Its card.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, card: Card):
        super().__init__()
        self.network = network
        mean, std = card.preprocessing.mean, card.preprocessing.std
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return labels and scores of images uint8 [batch, height, width, 3]."""
        x = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        logits = self.network(x).logits
        scores = upsample(logits, (image.shape[1], image.shape[2]), stride=self.network.output_stride)  # type: ignore[arg-type]
        return scores.argmax(dim=1), scores


def export_onnx(bundle: str, url: str, *, size: tuple[int, int] | None = None) -> list[Check]:
    """Write a bundle as an ONNX file.

    Args:
        bundle: URL of the bundle of a segmentation network.
        url: The file.
        size: Height and width of all images; None for images of any size.

    Returns:
        The comparisons with PyTorch.

    Raises:
        UserError: The packages are missing, the network cannot be exported, or onnxruntime computes other labels.
    """
    require_onnx()
    network, card = load_bundle(bundle)
    place = storage.redact(bundle)
    if card.classifier is not None or card.detector is not None:
        raise UserError(f"{place} is no segmentation network; only these are exported to ONNX")
    model = Deployed(network, card).eval()
    with tempfile.TemporaryDirectory(prefix="segpipe-onnx-") as folder:
        file = Path(folder) / "model.onnx"
        data = describe(to_onnx(model, size=size, name=card.architecture), card)
        checks = compare(model, data, size=size)
        worst = min(checks, key=lambda check: check.agreement)
        if worst.agreement < AGREEMENT:
            raise UserError(
                f"{place}: onnxruntime and PyTorch give the same label for only {worst.agreement:.2%} of the pixels of "
                f"images of {worst.size[2]}x{worst.size[1]} pixels; nothing was written. {_advice(size)}"
            )
        file.write_bytes(data)
        with storage.friendly_errors(url, "cannot write"):
            storage.upload(file, url)
    return checks


def require_onnx() -> None:
    """Refuse to go on without the packages of the extra `onnx`.

    Raises:
        UserError: One of them is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--onnx needs the package {error.name}: pip install 'segpipe[onnx]'") from None


def to_onnx(model: nn.Module, *, size: tuple[int, int] | None, name: str) -> bytes:
    """Return a network as ONNX, for batches of any size and images of any size or of one.

    Raises:
        UserError: It cannot be exported; the message says why.
    """
    batch, *example_size = TRACED if size is None else (TRACED[0], *size)
    example = torch.zeros(batch, *example_size, 3, dtype=torch.uint8)
    axes = range(3) if size is None else range(1)
    try:
        with _quietly():
            program = torch.onnx.export(
                model,
                (example,),
                input_names=["image"],
                output_names=["labels", "scores"],
                dynamic_shapes={"image": dict.fromkeys(axes, torch.export.Dim.DYNAMIC)},
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        return program.model_proto.SerializeToString()
    except Exception as error:  # the exporter raises whatever a network provokes
        raise UserError(f"{name} cannot be exported to ONNX: {_reason(error)}. {_advice(size)}") from None


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's remarks about its own progress from the terminal."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return the innermost cause, which says what the exporter's own message only points to."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {one_line(error)}"


def _advice(size: tuple[int, int] | None) -> str:
    return "With --size HEIGHT,WIDTH it may work for images of one size" if size is None else "See docs/exchange.md"


def describe(data: bytes, card: Card) -> bytes:
    """Return an ONNX file with names of its axes, and with what one must know to use it in its metadata."""
    import onnx

    model = onnx.load_from_string(data)
    names = {
        axis.dim_param: name
        for axis, name in zip(model.graph.input[0].type.tensor_type.shape.dim, AXES, strict=False)
        if axis.dim_param
    }
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]
    about = {
        "architecture": card.architecture,
        "classes": json.dumps(list(card.classes.names)),
        "colours": json.dumps(card.classes.palette.tolist()),
        "input": "uint8 RGB [batch, height, width, 3], not normalised: the network contains the normalisation",
        "preprocessing": card.preprocessing.model_dump_json(),
        "fingerprint": card.fingerprint,
        "segpipe": card.code_version,
    }
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def compare(model: nn.Module, data: bytes, *, size: tuple[int, int] | None) -> list[Check]:
    """Compare onnxruntime with PyTorch on drawn images of several sizes, or of one.

    Raises:
        UserError: onnxruntime cannot compute an image.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    sizes = CHECKED if size is None else ((1, *size), (2, *size))
    return [_compare(model, session, one, fixed=size) for one in sizes]


def _compare(model: nn.Module, session: Any, size: tuple[int, int, int], *, fixed: tuple[int, int] | None) -> Check:
    images = drawn_images(size)
    with torch.inference_mode():
        labels, scores = model(torch.from_numpy(images))
    try:
        found = session.run(["labels", "scores"], {"image": images})
    except Exception as error:  # onnxruntime has an exception class for each status
        raise UserError(
            f"onnxruntime cannot compute images of {size[2]}x{size[1]} pixels: {one_line(error)}. {_advice(fixed)}"
        ) from None
    spread = float(scores.std()) or 1.0
    return Check(
        size=size,
        agreement=float((found[0] == labels.numpy()).mean(axis=(1, 2)).min()),
        error=float(np.abs(found[1] - scores.numpy()).max()) / spread,
    )


def drawn_images(size: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return images of smooth random colours with noise, uint8 [batch, height, width, 3]."""
    batch, height, width = size
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.rand(batch, 3, 5, 7, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
    noisy = smooth + 0.1 * torch.randn(smooth.shape, generator=generator)
    return (255 * noisy.clamp(0, 1)).byte().permute(0, 2, 3, 1).contiguous().numpy()


def format_checks(checks: list[Check]) -> str:
    """Describe the comparisons for the terminal."""
    lines = ["batch x height x width   equal labels   largest error of a score (in standard deviations)"]
    for check in checks:
        shape = " x ".join(map(str, check.size))
        lines.append(f"{shape:<22} {check.agreement:>14.4%}   {check.error:.1e}")
    return "\n".join(lines)
