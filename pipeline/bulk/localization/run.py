"""Bulk localization: what an image shows, and where. `jobs/localize.py` starts it."""

import posixpath
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.archives.archive import truth_key
from pipeline.bulk.kind import ImagePredictor, RunReport
from pipeline.bulk.listing import InputImage
from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.scores import SCORED, score_map
from pipeline.bulk.localization.truth import ImageTruth
from pipeline.bulk.run import run_bulk
from pipeline.bulk.schema import PICTURE, PREDICTED, results_schema
from pipeline.cam import activation
from pipeline.cam.boxes import BoxArray, all_boxes, distance_boxes, largest_box
from pipeline.card import Card, read_card
from pipeline.data import datasets
from pipeline.data.annotations import read_annotations
from pipeline.data.classes import with_background
from pipeline.data.images import encode_heatmap, encode_mask, from_upright
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

# `classes` are those found, the most probable first, then those that the image is known to show; `maps` are their raw
# maps, float32, of the upright image. If a CRF follows, `pixels` holds the upright image, uint8 RGB.
LOCALIZED = pa.schema(
    [
        *PREDICTED,
        ("probabilities", pa.list_(pa.float32())),
        ("classes", pa.list_(pa.int32())),
        ("found", pa.int32()),
        ("maps", pa.large_binary()),
        ("map_shape", pa.list_(pa.int32())),
        ("pixels", pa.large_binary()),
    ]
)
CORNERS = ("left", "top", "right", "bottom")  # right and bottom are exclusive


def localize(config: LocalizeConfig) -> str | None:
    """Localize in the input, or resume the run in the output.

    Returns:
        The folder of the finished run; None after a dry run.

    Raises:
        UserError: The user has to change something; raised before a worker starts where possible.
    """
    card = read_card(config.model)
    if card.classifier is None:
        raise UserError(f"{storage.redact(config.model)} is a segmentation network; use it with jobs/segment.py")
    if config.foreground and not config.truth:
        raise UserError("--foreground needs --truth, which names the class of each image")
    return run_bulk(LocalizationRun(config, card))


class LocalizationRun:
    """A bulk run that localizes; see `kind.RunKind`.

    Args:
        config: Configuration of the run.
        card: Card of the model, a classifier.
    """

    predicted = LOCALIZED

    def __init__(self, config: LocalizeConfig, card: Card):
        assert card.classifier is not None
        self.config = config
        self.card = card
        self.classes = card.classes
        self._input = card.classifier
        self._mask_classes = None if config.mask == "none" else with_background(card.classes)
        self._threshold = None
        if config.threshold_from is not None:
            from pipeline.bulk.localization.tables import best_threshold

            self._threshold = best_threshold(config.threshold_from)

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
        if self._mask_classes is None:
            return results_schema(own, pictures=[], metadata=metadata)
        metadata = metadata | {"mask_classes": self._mask_classes.model_dump(mode="json")}
        return results_schema([*own, pa.field("mask", PICTURE)], pictures=["mask"], metadata=metadata)

    def truth(self, images: list[InputImage]) -> list[str | None]:
        """Return the `ImageTruth` of each image as JSON."""
        if self.config.truth is None:
            return [None] * len(images)
        annotations = read_annotations(self.config.truth)
        index = {name: k for k, name in enumerate(self.classes.names)}
        masks = datasets.files_by_key(self.config.foreground) if self.config.foreground else {}
        truths: list[str | None] = []
        named, unknown = 0, dict[str, None]()
        for image in images:
            known = annotations.find(truth_key(image.image_id, annotations.by_key))
            named += known is not None
            labels = known.labels if known else ()
            unknown |= dict.fromkeys(name for name in labels if name not in index)
            truth = ImageTruth(
                classes=[index[name] for name in labels if name in index],
                boxes=[(index[box.label], *box[1:]) for box in (known.boxes if known else ()) if box.label in index],
                foreground=masks.get(truth_key(image.image_id, masks)),
            )
            truths.append(truth.to_json())
        where = storage.redact(self.config.truth)
        if images and not named:
            raise UserError(
                f"{where} names none of the images; the first image is '{images[0].image_id}', the first named "
                f"'{min(annotations.by_key, default='–')}'"
            )
        if unknown:
            print(f"{where}: classes that the model does not know are left out: {', '.join(list(unknown)[:5])}")
        return truths

    def load_predictor(self) -> ImagePredictor:
        """Load the classifier onto this process's device."""
        from pipeline.bulk.localization.predictor import LocalizationPredictor

        return LocalizationPredictor(self.config)

    def warm_up(self) -> None:
        """Do nothing: the module has imported what the writers need."""

    def refine(self, predicted: Any) -> Any:
        """Append no stage: masks are made by the writers."""
        return predicted

    def row(self, predicted: dict[str, Any], truth: str | None) -> dict[str, Any]:
        """Draw boxes, heatmaps and the mask of an image, and score its maps if ground truth is known."""
        orientation = predicted["orientation"]
        size = (predicted["height"], predicted["width"])
        upright = size[::-1] if orientation >= 5 else size
        probabilities = np.array(predicted["probabilities"], np.float32)
        raw = np.frombuffer(predicted["maps"], np.float32).reshape(predicted["map_shape"])
        found = predicted["found"]
        heatmaps = self._heatmaps(raw, upright)
        stem = posixpath.splitext(predicted["image_id"])[0]
        row: dict[str, Any] = {
            "top_class": self.classes.names[int(probabilities.argmax())],
            "top_probability": float(probabilities.max()),
            "classes": [
                self._class_entry(
                    k, probabilities[k], raw[i], from_upright(heatmaps[i], orientation), stem, found=i < found
                )
                for i, k in enumerate(predicted["classes"])
            ],
        }
        if self._mask_classes is not None:
            mask = self._mask(predicted, heatmaps[:found], upright)
            row["mask"] = {"bytes": encode_mask(mask, self._mask_classes.palette), "path": f"{stem}.png"}
        if self.config.truth:
            known = ImageTruth.from_json(truth)
            row["known"] = [self.classes.names[k] for k in known.classes]
            maps = {k: from_upright(raw[i], orientation) for i, k in enumerate(predicted["classes"])}
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

    def _heatmaps(self, raw: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
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

    def _mask(self, predicted: dict[str, Any], heatmaps: NDArray, upright: tuple[int, int]) -> NDArray:
        """Return class indices on the stored pixels: 0 is background, k + 1 the model's class k."""
        from pipeline.cam.masks import label_map

        pixels = None
        if self.config.mask == "crf":
            pixels = np.frombuffer(predicted["pixels"], np.uint8).reshape(*upright, 3)
        labels = label_map(heatmaps, background=self.config.mask_background, pixels=pixels, crf=self.config.crf_params)
        indices = np.array([0, *(k + 1 for k in predicted["classes"][: len(heatmaps)])])
        return from_upright(indices[labels], predicted["orientation"])

    def report(self, run: str, files: Sequence[str], images: "Dataset") -> RunReport:
        """Draw the gallery, and derive the score tables if there is ground truth."""
        from pipeline.bulk.localization.gallery import draw_gallery
        from pipeline.bulk.localization.tables import SCORES, page_tables, run_tables

        caption = "image with boxes (red; true ones green), map"
        if not self.config.truth:
            return RunReport({}, {}, draw_gallery(run, files, images, threshold=None), caption)
        step = self.config.score_step
        tables = run_tables(images, self.classes, step=step, threshold=self._threshold)
        best = None
        if SCORES in tables:
            best = round(tables[SCORES]["threshold"][0].as_py() / step)
        sheet = draw_gallery(run, files, images, threshold=best)
        return RunReport(tables, page_tables(tables), sheet, caption)
