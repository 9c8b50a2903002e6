"""The features of regions, to which SVMs and box regressors are fitted, stored in parts of a few images.

    OUTPUT/stages/features/part-00000.truth.parquet     label, hidden: the true boxes
                           part-00000.regions.parquet   negative (of each class), hidden: the proposals
                           part-00000.pairs.parquet     label, target, pooled: the proposals that boxes are fitted to

With 4096 features, 2000 proposals take some 30 MB before compression. The parts let an interrupted run go on, and the
features be read one part after another, however many there are.
"""

import hashlib
import io
import json
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from pipeline import bundle, cluster, parquet, storage
from pipeline.data.datasets import SampleError
from pipeline.models.detection.boxes import encode
from pipeline.models.detection.region_network import usable
from pipeline.models.detection.sampling import regression_pairs, svm_negatives
from pipeline.models.detection.staged import StagedNetwork
from pipeline.predict.cpu_network import suit_cpu
from pipeline.predict.detector import Detector
from pipeline.predict.device import autocast, normalise, pick_device, upload
from pipeline.training.config import TrainingScaling
from pipeline.training.detection.config import TrainDetectorConfig
from pipeline.training.detection.examples import read_boxed
from pipeline.training.detection.survey import surveyed
from pipeline.training.detection.validation import DetectorValidation, validate

FOLDER = "stages"
PART = 4  # images
COLUMNS = {"regions": ("negative", "hidden"), "pairs": ("label", "target", "pooled"), "truth": ("label", "hidden")}
LAST = "truth"  # the smallest file of a part is written last: if it is there, so are the others
DIGEST, NORMS = b"digest", b"norms"


class Part(NamedTuple):
    """A part of the features.

    Attributes:
        prefix: URL of its files without their suffix.
        digest: Hash of all that the features depend on.
        rows: Rows of the survey.
    """

    prefix: str
    digest: str
    rows: range


def parts_of(output: str, table: pa.Table, *, weights: str) -> list[Part]:
    """Return the parts of a training set.

    Args:
        output: Folder of the run.
        table: Survey of the training images.
        weights: SHA-256 of the network's weights.
    """
    parts = []
    for i, start in enumerate(range(0, table.num_rows, PART)):
        rows = range(start, min(start + PART, table.num_rows))
        some = table.slice(start, len(rows)).drop_columns(["problems", "problem_boxes"])
        digest = hashlib.sha256(weights.encode())
        digest.update(json.dumps(some.drop_columns(["proposals"]).to_pylist()).encode())
        for row in rows:
            digest.update(surveyed(table, row).proposals.tobytes())
        parts.append(Part(storage.join(output, FOLDER, "features", f"part-{i:05}"), digest.hexdigest(), rows))
    return parts


def is_stored(part: Part) -> bool:
    """Return whether a part is stored and was made from the same data."""
    url = f"{part.prefix}.{LAST}.parquet"
    if not storage.exists(url):
        return False
    return read_metadata(part)[DIGEST] == part.digest.encode()


def read_metadata(part: Part) -> dict[bytes, bytes]:
    """Return the metadata of a stored part: `DIGEST`, and `NORMS`, the sum and number of the norms of its features."""
    return parquet.read_table(f"{part.prefix}.{LAST}.parquet", columns=[]).schema.metadata


def read_features(part: Part, kind: str, *columns: str) -> list[NDArray]:
    """Return columns of a part as arrays, [rows] or [rows, size]."""
    table = parquet.read_table(f"{part.prefix}.{kind}.parquet", columns=list(columns))
    return [_array(table[name].combine_chunks()) for name in columns]


def _array(column: pa.Array) -> NDArray:
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def _column(array: NDArray) -> pa.Array:
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])


class StageWorker:
    """A process that holds the trained network; it makes parts of the features and validates stages.

    Args:
        config: Configuration of the run.
        train: Survey of the training images.
        val: Survey of the validation images.
        threads: Threads of PyTorch on a CPU.
    """

    def __init__(self, config: TrainDetectorConfig, train: pa.Table, val: pa.Table, *, threads: int):
        self._device = pick_device()
        if self._device.type == "cpu":
            torch.set_num_threads(threads)
        network, card = bundle.load_bundle(config.output)
        assert isinstance(network, StagedNetwork)
        suit_cpu(network, self._device)
        assert card.detector is not None
        self._config, self._train, self._val = config, train, val
        self._detector = Detector(
            network,
            detector_input=card.detector,
            preprocessing=config.preprocessing,
            device=self._device,
            dtype=config.dtype,
        )
        self._network = network
        self._classes = len(card.classes)

    @torch.inference_mode()
    def make_part(self, part: Part) -> list[str]:
        """Compute and store a part, and return a line for each image that cannot be used."""
        columns: dict[str, list[list[NDArray]]] = {kind: [] for kind in COLUMNS}
        norms, count = 0.0, 0
        unread = []
        for row in part.rows:
            try:
                found = self._of_image(row)
            except SampleError as error:
                unread.append(str(error))
                continue
            for kind in COLUMNS:
                columns[kind].append(found[kind])
            for kind in ("truth", "regions"):
                norms += float(np.linalg.norm(found[kind][1], axis=1).sum(dtype=np.float64))
                count += len(found[kind][1])
        for kind in COLUMNS:
            arrays = [np.concatenate(parts) for parts in zip(*columns[kind], strict=True)] or self._nothing(kind)
            table = pa.table([_column(a) for a in arrays], names=COLUMNS[kind])
            metadata = {DIGEST: part.digest, NORMS: json.dumps([norms, count])}
            parquet.write_table(f"{part.prefix}.{kind}.parquet", table.replace_schema_metadata(metadata))
        return unread

    def _of_image(self, row: int) -> dict[str, list[NDArray]]:
        image, _ = read_boxed(self._train, row)
        known = surveyed(self._train, row)
        size = known.size
        normalised = normalise(upload([image.pixels], self._device), self._config.preprocessing)[0]
        proposals = usable(torch.from_numpy(image.proposals), size)
        regions = torch.cat([torch.from_numpy(image.boxes), proposals])
        if len(regions) == 0:
            return {kind: self._nothing(kind) for kind in COLUMNS}
        with autocast(self._device, self._config.dtype):
            features = self._network.features(normalised, regions.to(self._device))
        pooled, hidden = (column.float().cpu().numpy() for column in features)
        boxes, labels, true = proposals.numpy(), image.labels, len(image.boxes)
        # A proposal near an object that is not learnt (difficult, or a crowd) is no negative either.
        negative = svm_negatives(boxes, known.boxes, known.labels, num_classes=self._classes)
        pairs = regression_pairs(boxes, image.boxes, labels, num_classes=self._classes)
        target = encode(torch.from_numpy(pairs.matched), proposals[pairs.proposals]).numpy()
        return {
            "truth": [labels, hidden[:true]],
            "regions": [negative, hidden[true:]],
            "pairs": [pairs.labels, target.astype(np.float32), pooled[true:][pairs.proposals]],
        }

    def _nothing(self, kind: str) -> list[NDArray]:
        """Return the columns of no rows."""
        labels = np.zeros(0, np.int64)
        hidden = np.zeros((0, self._network.hidden_features), np.float32)
        if kind == "truth":
            return [labels, hidden]
        if kind == "regions":
            return [np.zeros((0, self._classes), bool), hidden]
        return [labels, np.zeros((0, 4), np.float32), np.zeros((0, self._network.pooled_features), np.float32)]

    def validate(self, svms: dict[str, NDArray], regressors: dict[str, NDArray] | None, rows: range) -> Any:
        """Score a share of the validation images with the SVMs, and perhaps with the regressors."""
        apply_stages(self._network, svms, regressors)
        return validate(self._detector, self._val, rows, num_classes=self._classes)


@torch.no_grad()
def apply_stages(network: StagedNetwork, svms: dict[str, NDArray], regressors: dict[str, NDArray] | None) -> None:
    """Let the SVMs score the regions, and the regressors correct the boxes if there are any."""
    weights, biases = (torch.from_numpy(svms[name]) for name in ("weights", "biases"))
    network.set_svms(weights, biases, scale=float(svms["scale"]))
    network.regressors_fitted.fill_(False)
    if regressors is not None:
        network.set_regressors(*(torch.from_numpy(regressors[name]) for name in ("weights", "biases")))


def read_arrays(url: str) -> dict[str, NDArray]:
    """Read the arrays that `write_arrays` wrote."""
    with np.load(io.BytesIO(storage.read_bytes(url)), allow_pickle=False) as content:
        return dict(content)


def write_arrays(url: str, arrays: dict[str, NDArray]) -> None:
    """Write arrays as one `.npz` file, atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    storage.write_bytes(url, buffer.getvalue())


def start_workers(config: TrainDetectorConfig, train: pa.Table, val: pa.Table) -> list[Any]:
    """Start as many processes with the trained network as training has workers, with the same resources."""
    scaling = config.scaling
    shared = [ray.put(table) for table in (train, val)]
    workers = places(cluster.available(), scaling)
    actor = ray.remote(StageWorker).options(
        num_cpus=scaling.cpus_per_worker,
        num_gpus=1 if scaling.use_gpu else 0,
        max_restarts=scaling.max_failures,
        max_task_retries=scaling.max_failures,
    )
    threads = max(1, cluster.cpu_count() // workers)
    return [actor.remote(config, *shared, threads=threads) for _ in range(workers)]


def places(have: cluster.Resources, scaling: TrainingScaling) -> int:
    """Return how many processes a cluster has room for; an elastic run may have fewer than it asked for."""
    room = (have.cpus - 1) // scaling.cpus_per_worker  # the tasks that fit SVMs need a CPU beside the processes
    if scaling.use_gpu:
        room = min(room, have.gpus)
    return min(scaling.num_workers, max(1, room))


def validate_stage(
    workers: list[Any], svms: dict[str, NDArray], regressors: dict[str, NDArray] | None, rows: int
) -> DetectorValidation:
    """Validate a stage with all workers, each with its share."""
    shares = [
        worker.validate.remote(svms, regressors, range(i, rows, len(workers))) for i, worker in enumerate(workers)
    ]
    return DetectorValidation.merged(ray.get(shares))
