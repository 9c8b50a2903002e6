"""Detection by torchvision's Faster R-CNN as a script does it: `python -m benchmarks.detection_loop IMAGES FILE`.

One process with PyTorch's default threads detects in one image after the other, and writes the boxes as JSON. The
network has random weights and the sizes of `benchmarks.detection`.
"""

import json
import sys
from pathlib import Path

import torch
import torchvision
from torchvision.io import ImageReadMode, read_image

from benchmarks.detection import FASTER_RCNN


def main(images: Path, output: Path) -> None:
    """Detect in a folder of images."""
    network = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=4,
        min_size=FASTER_RCNN["short_side"],
        max_size=FASTER_RCNN["longest_side"],
    ).eval()
    rows = {}
    with torch.inference_mode():
        for file in sorted(images.iterdir()):
            (found,) = network([read_image(str(file), ImageReadMode.RGB) / 255])
            rows[file.name] = {name: values.tolist() for name, values in found.items()}
    output.write_text(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
