"""Class activation maps in bulk compared with torch-cam in a plain loop: `python -m benchmarks.cam [--images 1000]`.

The plain loop follows torch-cam's example: one process with all threads opens and resizes an image, runs the network,
extracts the map of the most probable class, resizes it to the image and stores it. Both use the same drawn scenes,
network and weights. A bulk run is timed at two sizes, because its fixed costs do not grow with the number of images.
The cost of maps on top of classification is then measured on one batch, with and without maps in turn. Needs the extra
'test' (torchcam).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchcam.methods import CAM

from benchmarks.bulk_data import DRAWN_SIZE, draw_scenes, repeated
from benchmarks.measure import timed
from pipeline import bundle, cluster
from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.run import localize
from pipeline.cam import activation
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.images import encode_heatmap
from pipeline.data.preprocessing import ClassifierInput, Preprocessing
from pipeline.models import configure
from pipeline.predict.classifier import Classifier
from pipeline.predict.device import normalise

SIDE = 224
BATCH = 16
ROUNDS = 12


def main() -> None:
    """Time the loop, the bulk runs and the maps of a batch, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="images of the large run (the small one has a fifth)")
    parser.add_argument("--model", default="resnet18_cam", help="classifier")
    parser.add_argument("--classes", type=int, default=20, help="number of classes")
    arguments = parser.parse_args()
    small, large = arguments.images // 5, arguments.images
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        scenes = draw_scenes(home / "scenes", DRAWN_SIZE)
        for count in (small, large):
            repeated(scenes, count, home / str(count))
        classifier_input = ClassifierInput(size=(SIDE, SIDE), multi_label=False)
        names = tuple(f"class {k}" for k in range(arguments.classes))
        card = Card(architecture=arguments.model, options={}, classes=Classes(names=names), classifier=classifier_input)
        torch.manual_seed(0)
        network = configure(arguments.model, {}).build(arguments.classes).eval()
        bundle.save_bundle(str(home / "model"), network, card)

        loop = timed(lambda: plain_loop(network, home / str(small), home / "loop"))
        cluster.connect()
        runs: dict[int, float] = {}
        for count in (small, small, large):  # the first starts Ray's processes and reads their libraries from disk
            output = str(home / f"runs{len(runs)}")
            config = LocalizeConfig(model=str(home / "model"), images=str(home / str(count)), output=output)
            runs[count] = timed(lambda config=config: localize(config))  # type: ignore[misc]
        loop += timed(lambda: plain_loop(network, home / str(small), home / "loop"))
        without, with_maps = cost_of_maps(network, classifier_input, home / str(small))

    loop_rate = 2 * small / loop
    rate = (large - small) / (runs[large] - runs[small])
    print(f"\n{arguments.model}, {SIDE}x{SIDE}, {cluster.cpu_count()} cores")
    print(f"torch-cam, plain loop         {loop_rate:7.1f} images/s")
    print(f"bulk run, beyond fixed costs  {rate:7.1f} images/s   {rate / loop_rate:.2f} x the loop")
    print(f"classification                {1000 * without:7.1f} ms a batch of {BATCH}")
    print(f"classification and maps       {1000 * with_maps:7.1f} ms   {with_maps / without - 1:+.1%}")


class Logits(nn.Module):
    """A classifier that returns its scores as a tensor, as torch-cam requires."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores of normalised images."""
        return self.network(images).logits


def layer_of(network: nn.Module) -> str:
    """Return the name of the layer whose output is pooled."""
    return "backbone.layer4" if hasattr(network.backbone, "layer4") else "added"


def plain_loop(network: nn.Module, images: Path, output: Path) -> None:
    """Store the map of the most probable class of each image, one image after the other."""
    output.mkdir(exist_ok=True)
    torch.set_num_threads(cluster.cpu_count())
    model = Logits(network.to(memory_format=torch.channels_last)).eval()
    names = {"target_layer": f"network.{layer_of(network)}", "fc_layer": "network.fc"}
    with CAM(model, **names, input_shape=(3, SIDE, SIDE)) as extractor, torch.inference_mode():
        for file in sorted(images.iterdir()):
            with Image.open(file) as opened:
                image = opened.convert("RGB")
            pixels = np.array(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
            scores = model(normalise(torch.from_numpy(pixels)[None], Preprocessing()))
            (heatmap,) = extractor(int(scores[0].argmax()), scores)
            grey = Image.fromarray((heatmap[0].numpy() * 255).astype(np.uint8))
            grey.resize(image.size, Image.Resampling.BICUBIC).save(output / f"{file.stem}.png")


def cost_of_maps(network: nn.Module, classifier_input: ClassifierInput, images: Path) -> tuple[float, float]:
    """Return the median seconds of a batch: scores alone, and with the best class's map, normalised and in 8 bits."""
    torch.set_num_threads(cluster.cpu_count())
    classifier = Classifier(
        network, classifier_input=classifier_input, preprocessing=Preprocessing(), device=torch.device("cpu")
    )
    files = sorted(images.iterdir())[:BATCH]
    batch = [np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE))) for file in files]
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 * ROUNDS):
        maps = bool(turn % 2)
        start = time.perf_counter()
        for result in classifier(batch):
            best = int(result.probabilities.argmax())
            if maps:
                raw = result.maps([best])
                activation.normalise(raw, "relu_max")
                encode_heatmap(raw[0])
        times[maps].append(time.perf_counter() - start)
    return float(np.median(times[False][1:])), float(np.median(times[True][1:]))


if __name__ == "__main__":
    main()
