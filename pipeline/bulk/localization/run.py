"""Bulk localization: what an image shows, and where. `segpipe localize` starts it."""

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.archives.archive import truth_key
from pipeline.bulk.fetch import Fetched
from pipeline.bulk.kind import ImagePredictor, RunReport
from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.located import Located
from pipeline.bulk.localization.scores import SCORED, score_map
from pipeline.bulk.localization.truth import ImageTruth
from pipeline.bulk.outcome import Outcome
from pipeline.bulk.run import run_bulk
from pipeline.bulk.schema import PICTURE, results_schema
from pipeline.cam import activation
from pipeline.cam.boxes import BoxArray, all_boxes, distance_boxes, largest_box
from pipeline.card import Card, read_card
from pipeline.data import datasets
from pipeline.data.annotations import read_annotations
from pipeline.data.classes import with_background
from pipeline.data.images import changed_view, encode_heatmap, encode_mask, from_upright, resize
from pipeline.data.naming import proposal
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

CORNERS = ("left", "top", "right", "bottom")  # right and bottom are exclusive


def localize(config: LocalizeConfig, outcome: Outcome | None = None) -> str | None:
    """Localize in the input, or resume the run in the output.

    Args:
        config: Options of the run.
        outcome: Filled in while the run goes on.

    Returns:
        The folder of the finished run; None after a dry run.

    Raises:
        UserError: The user has to change something; raised before a worker starts where possible.
    """
    return run_bulk(localization_run(config), outcome)


def localization_run(config: LocalizeConfig) -> "LocalizationRun":
    """Return the kind of run of some options.

    Raises:
        UserError: The model or the options do not fit.
    """
    card = read_card(config.model)
    if card.detector is not None:
        raise UserError(f"{storage.redact(config.model)} is a detector; use it with segpipe detect")
    if card.classifier is None:
        raise UserError(f"{storage.redact(config.model)} is a segmentation network; use it with segpipe segment")
    if config.foreground and not config.truth:
        raise UserError("--foreground needs --truth, which names the class of each image")
    return LocalizationRun(config, card)


class LocalizationRun:
    """A bulk run that localizes; see `kind.RunKind`.

    Args:
        config: Configuration of the run.
        card: Card of the model, a classifier.

    Attributes:
        mask_classes: Classes of the masks: a background, and the model's; None without masks.
    """

    seconds_per_image = 0.0

    def __init__(self, config: LocalizeConfig, card: Card):
        assert card.classifier is not None
        self.config = config
        self.card = card
        self.classes = card.classes
        self._input = card.classifier
        self.mask_classes = None if config.mask == "none" else with_background(card.classes)
        self._threshold = None
        if config.threshold_from is not None:
            from pipeline.bulk.localization.tables import best_threshold

            self._threshold = best_threshold(config.threshold_from)

    @property
    def refines(self) -> bool:
        """Whether masks are made by the dense CRF."""
        return self.config.mask == "crf"

    def images_schema(self, metadata: dict[str, Any]) -> pa.Schema:
        """Return the schema of `images`: probabilities, classes with boxes and maps, masks and scores if asked for."""
        class_fields = [
            ("class", pa.string()),
            ("probability", pa.float32()),
            ("found", pa.bool_()),  # false for a class that is only known to be there
            ("boxes", pa.list_(pa.struct([(name, pa.int32()) for name in CORNERS]))),
            ("map_min", pa.float32()),
            ("map_max", pa.float32()),
            ("map_mean", pa.float32()),
        ]
        if self.config.heatmaps:  # raw value = offset + scale * grey
            class_fields += [("heatmap", PICTURE), ("scale", pa.float32()), ("offset", pa.float32())]
        own = [
            pa.field("top_class", pa.string()),
            pa.field("top_probability", pa.float32()),
            pa.field("probabilities", pa.list_(pa.float32())),
            pa.field("classes", pa.list_(pa.struct(class_fields))),
        ]
        if self.config.truth:
            own += [pa.field("known", pa.list_(pa.string())), pa.field("scored", pa.list_(SCORED))]
        if self.mask_classes is None:
            return results_schema(own, pictures=[], metadata=metadata)
        metadata = metadata | {"mask_classes": self.mask_classes.model_dump(mode="json")}
        return results_schema([*own, pa.field("mask", PICTURE)], pictures=["mask"], metadata=metadata)

    def truth(self, ids: Iterable[list[str]]) -> Iterator[Sequence[str | None]]:
        """Yield the `ImageTruth` of the images as JSON."""
        if self.config.truth is None:
            yield from ([None] * len(some) for some in ids)
            return
        annotations = read_annotations(self.config.truth)
        index = {name: k for k, name in enumerate(self.classes.names)}
        files = datasets.files_by_key(self.config.foreground) if self.config.foreground else {}
        masks = datasets.by_image(files, self.config.foreground_names)
        keys: list[str] = []  # of the first images, for the advice on names of masks
        first, named, masked, unknown = None, 0, 0, dict[str, None]()
        for some in ids:
            truths: list[str | None] = []
            for image_id in some:
                known = annotations.find(truth_key(image_id, annotations.by_key))
                named += known is not None
                labels, boxes = known or ((), ())
                unknown |= dict.fromkeys(name for name in labels if name not in index)
                truth = ImageTruth(
                    classes=[index[name] for name in labels if name in index],
                    boxes=[(index[box.label], *box[1:]) for box in boxes if box.label in index],
                    foreground=masks.get(truth_key(image_id, masks)),
                )
                masked += truth.foreground is not None
                truths.append(truth.to_json())
            first, keys = first or some[0], keys or [truth_key(image_id, masks) for image_id in some]
            yield truths
        where = storage.redact(self.config.truth)
        if first and not named:
            raise UserError(
                f"{where} names none of the images; the first image is '{first}', the first named "
                f"'{min(annotations.by_key, default='–')}'"
            )
        if first and files and not masked:
            advice = proposal(keys, files, names=self.config.foreground_names, group="foreground-names.")
            raise UserError(
                f"no mask in {storage.redact(self.config.foreground or '')} has the name of an image; the first image "
                f"is '{first}', the first mask '{min(files)}'{advice}"
            )
        if unknown:
            print(f"{where}: classes that the model does not know are left out: {', '.join(list(unknown)[:5])}")

    def load_predictor(self, images: int) -> ImagePredictor:
        """Load the classifier onto this process's device."""
        from pipeline.bulk.localization.predictor import LocalizationPredictor

        return LocalizationPredictor(self.config)

    def warm_up(self) -> None:
        """Import the CRF, which loads what it has compiled."""
        from pipeline.cam import masks  # noqa: F401

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the configured view of an image at the size of the classifier's input."""
        return resize(changed_view(pixels, self.config.view), self._input.size)

    def row(self, fetched: Fetched, result: Located) -> dict[str, Any]:
        """Draw boxes, heatmaps and the mask of an image, and score its maps if ground truth is known."""
        assert fetched.height is not None
        assert fetched.width is not None
        orientation = fetched.orientation
        size = (fetched.height, fetched.width)
        upright = size[::-1] if orientation >= 5 else size
        probabilities, raw, found = result.probabilities, result.maps, result.found
        heatmaps = self.heatmaps(raw, upright)
        stem = posixpath.splitext(fetched.image_id)[0]
        row: dict[str, Any] = {
            "probabilities": probabilities,
            "top_class": self.classes.names[int(probabilities.argmax())],
            "top_probability": float(probabilities.max()),
            "classes": [
                self._class_entry(
                    k, probabilities[k], raw[i], from_upright(heatmaps[i], orientation), stem, found=i < found
                )
                for i, k in enumerate(result.classes)
            ],
        }
        if self.mask_classes is not None:
            mask = self._mask(fetched, result, heatmaps[:found])
            row["mask"] = {"bytes": encode_mask(mask, self.mask_classes.palette), "path": f"{stem}.png"}
        if self.config.truth:
            known = ImageTruth.from_json(fetched.truth)
            row["known"] = [self.classes.names[k] for k in known.classes]
            maps = {k: from_upright(raw[i], orientation) for i, k in enumerate(result.classes)}
            row["scored"] = [
                score_map(
                    maps[k],
                    k,
                    known,
                    rank=int((probabilities > probabilities[k]).sum()),
                    name=self.classes.names[k],
                    size=size,
                    frame=self._input.size[::-1] if orientation >= 5 else self._input.size,
                    step=self.config.score_step,
                )
                for k in known.classes
                if any(box[0] == k for box in known.boxes) or known.foreground
            ]
        return row

    def heatmaps(self, raw: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Return raw maps [n, h, w], normalised and at a size (height, width)."""
        options = self.config.maps
        return activation.heatmaps(
            raw, size, how=options.normalisation, order=options.order, interpolation=options.interpolation
        )

    def _class_entry(
        self, k: int, probability: float, raw: NDArray, heatmap: NDArray, stem: str, *, found: bool
    ) -> dict[str, Any]:
        """Return an entry of the column `classes`."""
        boxes = self._boxes(heatmap) if found else np.zeros((0, 4), np.int32)
        entry = {
            "class": self.classes.names[k],
            "probability": float(probability),
            "found": found,
            "boxes": [dict(zip(CORNERS, box, strict=True)) for box in boxes.tolist()],
            "map_min": float(raw.min()),
            "map_max": float(raw.max()),
            "map_mean": float(raw.mean()),
        }
        if self.config.heatmaps:
            png, scale, offset = encode_heatmap(raw)
            entry |= {"heatmap": {"bytes": png, "path": f"{stem}.{k}.png"}, "scale": scale, "offset": offset}
        return entry

    def _boxes(self, heatmap: NDArray) -> BoxArray:
        options = self.config.boxes
        match options.regions:
            case "largest":
                return largest_box(heatmap, threshold=options.threshold)
            case "all":
                return all_boxes(heatmap, threshold=options.threshold, min_share=options.min_share)
            case "distance":
                return distance_boxes(heatmap)

    def _mask(self, fetched: Fetched, result: Located, heatmaps: NDArray) -> NDArray:
        """Return class indices on the stored pixels: 0 is background, k + 1 the model's class k."""
        from pipeline.cam.masks import label_map

        labels = label_map(
            heatmaps, background=self.config.mask_background, pixels=fetched.pixels, crf=self.config.crf_params
        )
        indices = np.array([0, *(k + 1 for k in result.classes[: len(heatmaps)])])
        return from_upright(indices[labels], fetched.orientation)

    def report(self, run: str, files: Sequence[str], images: "Dataset") -> RunReport:
        """Draw the pictures, and derive the score tables if there is ground truth."""
        from pipeline.bulk.localization.page import run_page
        from pipeline.bulk.localization.tables import run_tables

        tables: dict[str, pa.Table] = {}
        if self.config.truth:
            tables = run_tables(images, self.classes, step=self.config.score_step, threshold=self._threshold)
        return run_page(run, files, images, self.classes, tables)
