"""Bulk segmentation without segpipe, as scripts do it: `python -m benchmarks.bulk_peers PEER --bundle … --images …`.

loop        one process with all threads segments one image after the other and writes PNG files; with --crf,
            pydensecrf refines each image
dataloader  as many DataLoader workers as cores decode batches of images of one size, the main process runs the
            network with all threads and writes PNG files; with --crf, a pool of as many processes as cores runs
            pydensecrf and writes the files
ray         Ray Data as its documentation shows: read_images, map_batches with a class, write_parquet. Ray starts
            with its defaults. A GPU has one actor; without one, there are as many actors as cores, and they hold
            all of Ray's CPUs but one, so that reading and writing find a place while all cores compute
"""

import argparse
import io
import os
from collections import defaultdict, deque
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.crf_peer import pydensecrf
from pipeline.bundle import load_bundle
from pipeline.crf.params import CRFParams
from pipeline.data.preprocessing import DType
from pipeline.predict.device import autocast, normalise, pick_device, place

# `pipeline.cluster` would import Ray, which most peers do without.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Network:
    """A network on the GPU or the CPU.

    Args:
        bundle: Its bundle.
        dtype: "float32", or "bfloat16" for autocast.
    """

    def __init__(self, bundle: str, dtype: DType):
        self.device = pick_device()
        network, self.card = load_bundle(bundle)
        self.network = place(network, self.device)
        self.dtype = dtype
        self.palette = self.card.classes.palette

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the scores [batch, classes, height, width] of images, uint8 [batch, height, width, 3]."""
        with autocast(self.device, self.dtype):
            logits = self.network(normalise(images.to(self.device, non_blocking=True), self.card.preprocessing)).logits
        return torch.nn.functional.interpolate(
            logits.float(), size=images.shape[1:3], mode="bilinear", align_corners=False
        )


def plain_loop(arguments: argparse.Namespace) -> None:
    """Segment one image after the other."""
    network = Network(arguments.bundle, arguments.dtype)
    for file in files_of(arguments.images):
        pixels = read(file)
        scores = network(torch.from_numpy(pixels)[None])
        target = arguments.output / f"{file.stem}.png"
        if arguments.crf:
            refine_and_save(pixels, probabilities(scores)[0], network.palette, target)
        else:
            save(labels(scores)[0], network.palette, target)


class Images(Dataset[tuple[int, Tensor]]):
    """Decoded images and their numbers.

    Args:
        files: The files.
    """

    def __init__(self, files: list[Path]):
        self.files = files

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, torch.from_numpy(read(self.files[index]))


def data_loader(arguments: argparse.Namespace) -> None:
    """Segment batches that a DataLoader's workers decode."""
    network = Network(arguments.bundle, arguments.dtype)
    files = files_of(arguments.images)
    loader = DataLoader(
        Images(files),
        batch_sampler=batches_of_one_size(files, arguments.batch),
        num_workers=CORES,
        pin_memory=network.device.type == "cuda",
    )
    running: deque[Future[None]] = deque()
    with ProcessPoolExecutor(CORES) as pool:
        for indices, images in loader:
            scores = network(images)
            targets = [arguments.output / f"{files[i].stem}.png" for i in indices.tolist()]
            if not arguments.crf:
                for mask, target in zip(labels(scores), targets, strict=True):
                    save(mask, network.palette, target)
                continue
            for pixels, one, target in zip(images.numpy(), probabilities(scores), targets, strict=True):
                running.append(pool.submit(refine_and_save, pixels, one, network.palette, target))
            while len(running) > 4 * CORES:
                running.popleft().result()
        for left in running:
            left.result()


def batches_of_one_size(files: list[Path], batch: int) -> list[list[int]]:
    """Return the indices of files in batches of images of one size, which their headers tell."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, file in enumerate(files):
        with Image.open(file) as image:
            groups[image.size].append(i)
    return [group[start : start + batch] for group in groups.values() for start in range(0, len(group), batch)]


class RaySegmenter:
    """The class that Ray Data calls with batches.

    Args:
        bundle: Bundle of the network.
        dtype: See `Network`.
    """

    def __init__(self, bundle: str, dtype: DType):
        self.network = Network(bundle, dtype)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Segment the images of one size together, and return PNG files in the order of the batch."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, image in enumerate(batch["image"]):
            groups[image.shape].append(i)
        masks = [b""] * len(batch["path"])
        for indices in groups.values():
            scores = self.network(torch.from_numpy(np.stack([batch["image"][i] for i in indices])))
            for i, mask in zip(indices, labels(scores), strict=True):
                buffer = io.BytesIO()
                save(mask, self.network.palette, buffer)
                masks[i] = buffer.getvalue()
        return {"path": batch["path"], "mask": masks}


def ray_data(arguments: argparse.Namespace) -> None:
    """Segment with Ray Data."""
    import ray

    gpu = torch.cuda.is_available()
    images = ray.data.read_images(str(arguments.images), mode="RGB", include_paths=True)
    masks = images.map_batches(
        RaySegmenter,
        fn_constructor_args=(arguments.bundle, arguments.dtype),
        batch_size=arguments.batch,
        compute=ray.data.ActorPoolStrategy(size=1 if gpu else CORES),
        num_cpus=None if gpu else (CORES - 1) / CORES,
        num_gpus=1 if gpu else None,
    )
    masks.write_parquet(str(arguments.output))


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder in order."""
    return sorted(folder.iterdir())


def read(file: Path) -> NDArray[np.uint8]:
    """Decode a file to uint8 [height, width, 3]."""
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


def labels(scores: Tensor) -> NDArray[np.uint8]:
    """Return the best classes, uint8 [batch, height, width]."""
    return scores.argmax(dim=1).to(torch.uint8).cpu().numpy()


def probabilities(scores: Tensor) -> NDArray[np.float32]:
    """Return the softmax of scores, float32 [batch, classes, height, width]."""
    return scores.softmax(dim=1).cpu().numpy()


def refine_and_save(
    pixels: NDArray[np.uint8], probabilities: NDArray[np.float32], palette: NDArray[np.uint8], target: Path
) -> None:
    """Refine an image by pydensecrf, and write its mask."""
    refined = pydensecrf(pixels, probabilities, CRFParams())
    save(refined.argmax(axis=0).astype(np.uint8), palette, target)


def save(mask: NDArray[np.uint8], palette: NDArray[np.uint8], target: Path | io.BytesIO) -> None:
    """Write a mask as an indexed PNG."""
    image = Image.fromarray(mask)
    image.putpalette(palette.tobytes())
    image.save(target, "PNG")


PEERS = {"loop": plain_loop, "dataloader": data_loader, "ray": ray_data}


def main() -> None:
    """Run a peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--bundle", required=True, help="bundle of the network")
    parser.add_argument("--images", required=True, type=Path, help="folder of images")
    parser.add_argument("--output", required=True, type=Path, help="folder for the masks")
    parser.add_argument("--batch", type=int, default=8, help="images in a batch")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="bfloat16: autocast")
    parser.add_argument("--crf", action="store_true", help="refine the masks by pydensecrf (not for ray)")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True)
    torch.set_num_threads(CORES)
    PEERS[arguments.peer](arguments)


if __name__ == "__main__":
    main()
