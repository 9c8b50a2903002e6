"""Learning to detect: the task of `segpipe train-detector`."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pyarrow as pa
import torch
from pydantic import ValidationError
from torch import nn

from pipeline import models, storage
from pipeline.card import Card
from pipeline.data.classes import Classes, load_classes
from pipeline.data.preprocessing import DetectorInput
from pipeline.errors import UserError, first_problem
from pipeline.metrics.proposals import BUDGETS, IOUS, ProposalRecall, count_proposals
from pipeline.models.config import ModelTask
from pipeline.models.detection.detector import DetectionNetwork, DetectorConfig
from pipeline.models.detection.sampling import grid_targets
from pipeline.models.detection.stages import require_sklearn
from pipeline.models.detection.yolo import YOLOConfig
from pipeline.predict.detector import Detector
from pipeline.training.detection import stages
from pipeline.training.detection.annotated_images import AnnotatedSplit, class_names, read_annotated, refuse_unknown
from pipeline.training.detection.config import TrainDetectorConfig
from pipeline.training.detection.examples import DrawBoxes
from pipeline.training.detection.objective import DetectionObjective
from pipeline.training.detection.pictures import draw_detections, draw_examples
from pipeline.training.detection.survey import format_problems, read_survey, survey, surveyed
from pipeline.training.detection.validation import MEASURES, DetectorValidation, truth_of, validate
from pipeline.training.examples import TrainingData
from pipeline.training.network import architecture_of
from pipeline.training.task import Task

PREVIEW = "preview.png"


class DetectionTask(Task):
    """Learning to detect; see `task.Task`.

    Args:
        config: Configuration of the run.
        classes: Classes of the data set.
        train: Training images.
        val: Validation images.
    """

    name: ModelTask = "detection"
    measures = MEASURES

    def __init__(self, config: TrainDetectorConfig, classes: Classes, train: AnnotatedSplit, val: AnnotatedSplit):
        self.config = config
        self.classes = classes
        self.validation = range(len(val.images))
        self._splits: tuple[AnnotatedSplit, AnnotatedSplit] | None = (train, val)
        self._val_table: pa.Table | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is large: workers read the survey of the validation images from the output."""
        return self.__dict__ | {"_splits": None, "_val_table": None}

    @property
    def architecture(self) -> DetectorConfig:
        """The options of the network."""
        return cast(DetectorConfig, models.configure(self.config.model, self.config.model_options))

    @property
    def detector_input(self) -> DetectorInput:
        """What the detector takes besides images."""
        return DetectorInput(proposals=self.config.proposals if self.architecture.takes_proposals else None)

    @property
    def val_table(self) -> pa.Table:
        """The survey of the validation images."""
        if self._val_table is None:
            self._val_table = read_survey(self.config.output, "val")
        return self._val_table

    def prepare(self, data: TrainingData) -> TrainingData:
        """Look at all images and store their proposals; print what was found, and draw some examples."""
        assert self._splits is not None
        if self.architecture.staged:
            require_sklearn()
        tables = []
        for split in self._splits:
            table = survey(
                split,
                names=self.classes.names,
                output=self.config.output,
                proposals=self.detector_input.proposals,
            )
            unusable = [error for error in table["error"].to_pylist() if error is not None]
            if unusable:
                print(f"{split.name}: {len(unusable)} images cannot be used, the first: {unusable[0]}")
            print("\n".join([*format_problems(split, table), self._found(split.name, table)]))
            wanted = [not (difficult or crowd) for difficult, crowd in _flags(table)]
            if not any(wanted):
                raise UserError(f"{split.name}: no image has a box that must be found")
            tables.append(table)
        self._val_table = tables[1]
        data = TrainingData(tables[0], data.draw)
        url = storage.join(self.config.output, PREVIEW)
        if not storage.exists(url):
            storage.write_bytes(url, draw_examples(data, self.classes))
            print(f"examples: {storage.redact(url)}")
        return data

    def _found(self, name: str, table: pa.Table) -> str:
        """Return a line about the boxes of a split, and about proposals or grid cells."""
        recall, dropped, objects, empty = ProposalRecall.zeros(), 0, 0, 0
        architecture = self.architecture
        for index in range(table.num_rows):
            row = surveyed(table, index)
            objects, empty = objects + len(row.boxes), empty + (len(row.boxes) == 0)
            if architecture.takes_proposals:
                recall += count_proposals(row.proposals, truth_of(row))
            elif isinstance(architecture, YOLOConfig) and row.error is None:
                dropped += grid_targets(row.boxes, row.labels, size=row.size, grid=architecture.grid).dropped
        text = f"{name}: {objects} boxes in {table.num_rows} images, {empty} images without a box"
        if architecture.takes_proposals:
            shares = zip(IOUS, recall.recall[:, len(BUDGETS) - 1], strict=True)
            found = ", ".join(f"{share:.1%} at IoU {iou:g}" for iou, share in shares)
            text += f"; {recall.proposals / max(recall.images, 1):.0f} proposals per image find {found}"
        if dropped:
            text += f"; {dropped} boxes lie in a grid cell that another one has, and are not learnt"
        return text

    @property
    def finished(self) -> bool:
        """Whether SVMs and box regressors are fitted, if the detector has them."""
        return not self.architecture.staged or stages.are_complete(self.config.output)

    def finish(self, data: TrainingData, record: dict[str, Any]) -> None:
        """Fit SVMs and box regressors, if the detector has them."""
        if self.architecture.staged:
            stages.fit(self.config, self.classes, train=data.table, val=self.val_table, record=record)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the scores of each stage, if the detector has stages."""
        return {"Stages": stages.rows(self.config.output)} if self.architecture.staged else {}

    def objective(self, network: nn.Module, device: torch.device) -> DetectionObjective:
        """Return the detector's own loss."""
        return DetectionObjective()

    def evaluator(self, network: nn.Module, device: torch.device) -> Detector:
        """Return the network as a detector of objects in images."""
        assert isinstance(network, DetectionNetwork)
        return Detector(
            network,
            detector_input=self.detector_input,
            preprocessing=self.config.preprocessing,
            device=device,
            dtype=self.config.dtype,
        )

    def validate(self, evaluator: Detector, samples: Sequence[int]) -> DetectorValidation:
        """Score a share of the validation images."""
        return validate(evaluator, self.val_table, samples, num_classes=len(self.classes))

    def pictures(self, evaluator: Detector, rows: Sequence[dict[str, Any]] | None = None) -> bytes:
        """Draw some validation images with boxes and detections, as PNG."""
        if rows is None:
            return draw_detections(evaluator, self.val_table, self.validation, self.classes, {})
        places = {key: i for i, key in enumerate(self.val_table["key"].to_pylist())}
        titles = {places[r["key"]]: f"{r['key']}   AP {r['ap50']:.3f}" for r in rows if r["key"] in places}
        return draw_detections(evaluator, self.val_table, titles, self.classes, titles)

    def card(self) -> Card:
        """Return the bundle's card, without weights and training record."""
        return Card(
            architecture=self.config.model,
            options=self.config.model_options,
            classes=self.classes,
            preprocessing=self.config.preprocessing,
            detector=self.detector_input,
        )


def detection_task(config: TrainDetectorConfig) -> tuple[DetectionTask, TrainingData]:
    """Read what is to be learnt.

    Raises:
        UserError: There is nothing to learn from, or boxes have classes that are not to be learnt.
    """
    architecture_of(config, DetectionTask.name)  # before data are listed, which may take minutes
    train, val = read_annotated(config.train, name="train"), read_annotated(config.val, name="val")
    classes = load_classes(config.classes) if config.classes else _found_classes(train)
    for split in (train, val):
        refuse_unknown(split, classes.names)
    never = sorted(set(classes.names) - set(class_names(train)))
    if never:
        print(f"train: no box shows {', '.join(never[:5])}; these classes cannot be learnt")
    table = pa.table({"image": [image.image for image in train.images]})  # `prepare` returns the whole one
    return DetectionTask(config, classes, train, val), TrainingData(table, DrawBoxes(config))


def _flags(table: pa.Table) -> Iterator[tuple[bool, bool]]:
    """Yield whether each box of a survey is difficult, and whether it is a crowd."""
    columns = (table[name].combine_chunks().flatten().to_pylist() for name in ("difficult", "crowd"))
    return zip(*columns, strict=True)


def _found_classes(train: AnnotatedSplit) -> Classes:
    try:
        return Classes(names=class_names(train))
    except ValidationError as error:
        raise UserError(f"train: the classes of the boxes: {first_problem(error)}; --classes may name them") from None
