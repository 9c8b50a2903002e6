"""Our networks compared with those of other libraries: `python -m benchmarks.models [--rounds 7] [--device cuda]`.

Needs the extra `benchmark` (segmentation_models.pytorch). Both networks of a pair take the same images in the same
memory format and return scores at the size of the images. Forward passes run in inference mode, forward + backward in
train mode with the sum of the scores as the loss. Times are medians of interleaved rounds; memory is the growth of a
process in a training step (on Linux). A ratio is theirs over ours: above 1, ours is faster or smaller. Some networks of
the same name differ (their U-Net has another decoder; their pyramid is followed by a 1x1 convolution, in the paper by a
3x3), so their operations differ, and the ratio per multiply-accumulate shows the cost of the code.

The last line compares a classifier that slides over the image with its convolutional form.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import peak_growth
from pipeline.models import configure
from pipeline.models.upsampling import upsample

CLASSES = 21
PAIRS: dict[str, tuple[str, dict[str, object]]] = {
    "DeepLabV3-R50 /8, torchvision": ("deeplabv3_resnet50", {"output_stride": 8}),
    "DeepLabV3-R50 /16, smp": ("deeplabv3_resnet50", {"output_stride": 16}),
    "PSPNet-R50 /8, smp": ("pspnet_resnet50", {"deep_stem": False, "auxiliary_head": False}),
    "U-Net, smp (VGG16-BN)": ("unet", {}),
}


class Ours(nn.Module):
    """One of our networks, with scores at the size of the images."""

    def __init__(self, name: str, options: dict[str, object]):
        super().__init__()
        self.network = configure(name, options).build(CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of normalised images."""
        size = (images.shape[-2], images.shape[-1])
        return upsample(self.network(images).logits, size, stride=self.network.output_stride)  # type: ignore[arg-type]


class SmpPSPNet(nn.Module):
    """The encoder of smp at output stride 8 and its PSPNet decoder; its own PSPNet ends the ResNet after layer2."""

    def __init__(self) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
        from segmentation_models_pytorch.encoders import get_encoder

        self.encoder = get_encoder("resnet50", weights=None, output_stride=8)
        self.decoder = PSPDecoder(self.encoder.out_channels, out_channels=512, dropout=0.1)
        self.head = nn.Conv2d(512, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of normalised images."""
        return upsample(self.head(self.decoder(self.encoder(images))), (images.shape[-2], images.shape[-1]), stride=8)


class Torchvision(nn.Module):
    """The DeepLabV3 of torchvision, which returns a tensor in place of a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.segmentation import deeplabv3_resnet50

        self.network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of normalised images."""
        return self.network(images)["out"]


def theirs(pair: str) -> nn.Module:
    """Return the other library's network of a pair."""
    import segmentation_models_pytorch as smp

    if pair.startswith("DeepLabV3-R50 /8"):
        return Torchvision()
    if pair.startswith("DeepLabV3"):
        return smp.DeepLabV3(
            "resnet50",
            encoder_weights=None,
            classes=CLASSES,
            encoder_output_stride=16,
            decoder_atrous_rates=(6, 12, 18),
        )
    return SmpPSPNet() if pair.startswith("PSPNet") else smp.Unet("vgg16_bn", encoder_weights=None, classes=CLASSES)


def build(pair: str, side: str) -> nn.Module:
    """Return a network of a pair; `side` is "ours" or "theirs"."""
    return Ours(*PAIRS[pair]) if side == "ours" else theirs(pair)


def forward(network: nn.Module, images: Tensor) -> None:
    """Run a forward pass in inference mode."""
    with torch.inference_mode():
        network.eval()(images)


def both(network: nn.Module, images: Tensor) -> None:
    """Run a forward and a backward pass in train mode."""
    network.train()(images).float().sum().backward()
    network.zero_grad(set_to_none=True)


def main() -> None:
    """Compare each pair, then the sliding window, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of which the median is printed")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=2, help="images in a batch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="bfloat16: autocast")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    images = images.to(memory_format=torch.channels_last)
    print(f"{arguments.batch} x {arguments.size}x{arguments.size}, {arguments.dtype}, {device}; theirs / ours")
    print(f"{'':32} {'forward':>16} {'per MAC':>8} {'fwd+bwd':>16} {'per MAC':>8} {'memory':>7}")
    for pair in PAIRS:
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            compare(pair, images, arguments.rounds)
    slide(arguments.rounds)


def compare(pair: str, images: Tensor, rounds: int) -> None:
    """Measure both networks of a pair, and print a line."""
    networks = {side: build(pair, side).to(images.device) for side in ("ours", "theirs")}
    for network in networks.values():
        network.to(memory_format=torch.channels_last)
    macs = {side: operations(network.eval(), images) for side, network in networks.items()}
    cells = []
    for work in (forward, both):
        ours, other = interleaved(
            [lambda work=work, n=network: work(n, images) for network in networks.values()],  # type: ignore[misc]
            rounds,
        )
        ratio = other / ours
        cells.append(f"{ours:6.3f} s {ratio:5.2f} x {ratio * macs['ours'] / macs['theirs']:7.2f}")
    memory = {side: peak_memory(pair, side, images) for side in networks}
    print(f"{pair:32} {cells[0]} {cells[1]}  {memory['theirs'] / memory['ours']:5.2f}", flush=True)


def interleaved(works: list[Callable[[], None]], rounds: int) -> list[float]:
    """Return the median seconds of each piece of work, done in turn; a first round warms up."""
    times: list[list[float]] = [[] for _ in works]
    for i in range(rounds + 1):
        for work, seconds in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def operations(network: nn.Module, images: Tensor) -> int:
    """Return the multiply-accumulate operations of a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return counter.get_total_flops() // 2


def peak_memory(pair: str, side: str, images: Tensor) -> int:
    """Return the bytes that a training step adds at its peak, measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (pair, side, tuple(images.shape), str(images.device)))


def _peak(pair: str, side: str, shape: tuple[int, ...], device: str) -> int:
    network = build(pair, side).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    if device.startswith("cuda"):
        both(network, images)
        return torch.cuda.max_memory_allocated()
    return peak_growth(lambda: both(network, images))


def slide(rounds: int) -> None:
    """Compare AlexNet over 256x256, window by window, with its convolutional form, which gives the same scores."""
    sliding = configure("sliding_window_alexnet", {"width": 0.5}).build(CLASSES).eval()
    dense = configure("sliding_window_alexnet", {"width": 0.5, "dense": True}).build(CLASSES).eval()
    dense.load_state_dict(sliding.state_dict())
    images = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        difference = float((sliding(images).logits - dense(images).logits).abs().max())
    slow, fast = interleaved([lambda: forward(sliding, images), lambda: forward(dense, images)], max(2, rounds // 2))
    name = "sliding / dense AlexNet"
    print(f"{name:32} {fast:6.3f} s {slow / fast:5.1f} x   the scores differ by {difference:.0e}")


if __name__ == "__main__":
    try:
        import segmentation_models_pytorch  # noqa: F401
    except ImportError:
        sys.exit("error: this benchmark needs segmentation_models.pytorch: pip install '.[benchmark]'")
    main()
