"""A bulk run compared with a plain loop: `python -m benchmarks.bulk [--images 1000]`.

The plain loop is the usual script without segpipe: one process with all threads decodes one image after the other,
runs the network, takes the argmax and writes a PNG. Both segment the same drawn scenes with the same network and
weights. A bulk run has fixed costs (Ray, its actors, the reports) that do not grow with the number of images. It is
therefore timed at two sizes, and the rate of the images between them is the rate of a large collection.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline import bundle, cluster
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import segment
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import Preprocessing
from pipeline.demo.scenes import PALETTE, draw_scene
from pipeline.models import configure
from pipeline.predict.device import normalise

WIDTH, HEIGHT = 480, 360


def main() -> None:
    """Draw the scenes, time the loop and both runs, and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="images of the large run (the small one has a fifth)")
    parser.add_argument("--model", default="deeplabv3_resnet18", help="architecture")
    parser.add_argument("--width", type=float, default=0.5, help="width multiplier of the network")
    arguments = parser.parse_args()
    small, large = arguments.images // 5, arguments.images
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        print(f"drawing {large} scenes of {WIDTH}x{HEIGHT} …", flush=True)
        for count in (small, large):
            draw(home / str(count), count)
        card = Card(
            architecture=arguments.model,
            options={"width": arguments.width},
            classes=Classes(names=("sky", "grass", "road", "house", "tree", "car")),
        )
        torch.manual_seed(0)
        network = configure(card.architecture, card.options).build(len(card.classes))
        bundle.save_bundle(str(home / "model"), network, card)

        loop = timed(lambda: plain_loop(home / "model", home / str(small), home / "loop"))
        start = timed(cluster.connect)
        runs = {}
        for count in (small, large):
            config = SegmentConfig(model=str(home / "model"), images=str(home / str(count)), output=str(home / "runs"))
            runs[count] = timed(lambda config=config: segment(config))  # type: ignore[misc]
        loop += timed(lambda: plain_loop(home / "model", home / str(small), home / "loop"))

    loop_rate = 2 * small / loop
    rate = (large - small) / (runs[large] - runs[small])
    print(f"\n{arguments.model}, width {arguments.width}, {cluster.cpu_count()} cores")
    print(f"plain loop                    {loop_rate:7.1f} images/s")
    print(f"bulk run, beyond fixed costs  {rate:7.1f} images/s   {rate / loop_rate:.2f} x the loop")
    whole = large / (start + runs[large])
    print(f"bulk run of {large:,}, all in    {whole:7.1f} images/s   {whole / loop_rate:.2f} x")


def draw(folder: Path, count: int) -> None:
    """Write drawn scenes as JPEG files; the scenes repeat after 50."""
    folder.mkdir()
    for i in range(count):
        pixels, _ = draw_scene(np.random.default_rng(i % 50), WIDTH, HEIGHT)
        Image.fromarray(pixels).save(folder / f"{i:06d}.jpg", quality=90)


@torch.inference_mode()
def plain_loop(model: Path, images: Path, output: Path) -> None:
    """Segment the images one after the other, and write each mask as a PNG."""
    output.mkdir(exist_ok=True)
    torch.set_num_threads(cluster.cpu_count())
    network, _ = bundle.load_bundle(str(model))
    network = network.to(memory_format=torch.channels_last)
    for file in sorted(images.iterdir()):
        with Image.open(file) as image:
            pixels = np.array(image.convert("RGB"))
        logits = network(normalise(torch.from_numpy(pixels)[None], Preprocessing())).logits
        full = torch.nn.functional.interpolate(logits, size=pixels.shape[:2], mode="bilinear", align_corners=False)
        mask = Image.fromarray(full.argmax(dim=1)[0].to(torch.uint8).numpy())
        mask.putpalette(PALETTE.tobytes())
        mask.save(output / f"{file.stem}.png")


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
