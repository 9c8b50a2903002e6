"""Bulk localization: what an image shows, and where. The kind of run that `jobs/localize.py` is."""

import json
import posixpath
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from numpy.typing import NDArray

from pipeline import bundle, storage
from pipeline.bulk.config import LocalizeConfig
from pipeline.bulk.fetch import Fetched
from pipeline.bulk.kind import Report
from pipeline.bulk.listing import InputImage
from pipeline.bulk.localization.gallery import draw_localized
from pipeline.bulk.localization.scores import SCORED, Truth, score_map
from pipeline.bulk.localization.tables import SCORES, localization_tables, shown_tables, threshold_of
from pipeline.bulk.run import run_bulk
from pipeline.bulk.schema import PICTURE, PREDICTED, images_schema
from pipeline.bundle import Card, load_bundle
from pipeline.cam import activation
from pipeline.cam.boxes import Boxes, all_boxes, distance_boxes, largest_box
from pipeline.cam.masks import label_map
from pipeline.data import datasets
from pipeline.data.annotations import read_annotations
from pipeline.data.classes import with_background
from pipeline.data.images import changed_view, encode_heatmap, encode_mask, from_upright, resize
from pipeline.errors import UserError
from pipeline.predict.classifier import Answer, Classifier
from pipeline.predict.segmenter import pick_device

# `classes` are those found, in order of probability, and those that the image is known to show; `maps` their raw maps,
# float32, of the upright image. With a CRF to come, `pixels` holds those of the upright image, uint8 RGB.
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
    """Localize in the input, or go on with the run that lies in the output.

    Returns:
        the folder of the finished run; None after a dry run.

    Raises:
        UserError: anything that the user has to mend, where possible before a worker starts.
    """
    card = bundle.read_card(config.model)
    if card.classifier is None:
        raise UserError(f"{storage.redact(config.model)} segments; it is for jobs/segment.py")
    if config.foreground and not config.truth:
        raise UserError("--foreground needs --truth, which names the class of each image")
    return run_bulk(Localizing(config, card))


class Located(NamedTuple):
    """A result: the probabilities of all classes, those with maps, how many of them were found, and raw maps."""

    probabilities: NDArray[np.float32]
    classes: list[int]
    found: int
    maps: NDArray[np.float32]


class Network:
    """See `kind.Model`."""

    def __init__(self, config: LocalizeConfig):
        model, card = load_bundle(config.model)
        assert card.classifier is not None
        self._config = config
        self._takes = card.classifier
        self._classifier = Classifier(
            model,
            takes=card.classifier,
            preprocessing=card.preprocessing,
            device=pick_device(),
            dtype=config.dtype,
            scales=config.maps.scales,
            flip=config.maps.flip,
        )

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return resize(changed_view(pixels, self._config.view), self._takes.size)

    def __call__(self, images: Sequence[NDArray[np.uint8]], truths: Sequence[str | None]) -> list[Located]:
        answers = self._classifier(images)
        return [self._located(answer, truth) for answer, truth in zip(answers, truths, strict=True)]

    def _located(self, answer: Answer, truth: str | None) -> Located:
        found = self._config.found_in(answer.probabilities, multi_label=self._takes.multi_label)
        known = [k for k in Truth.read(truth).classes if k not in found]
        return Located(answer.probabilities, found + known, len(found), answer.maps(found + known))

    def columns(self, fetched: Fetched, result: Located) -> dict[str, Any]:
        row = {
            "probabilities": result.probabilities,
            "classes": result.classes,
            "found": result.found,
            "maps": result.maps.tobytes(),
            "map_shape": result.maps.shape,
        }
        if self._config.mask == "crf":
            assert fetched.pixels is not None
            row["pixels"] = fetched.pixels.tobytes()
        return row


class Localizing:
    """See `kind.Kind`.

    Args:
        config: of the run.
        card: of the model, a classifier.
    """

    predicted = LOCALIZED

    def __init__(self, config: LocalizeConfig, card: Card):
        assert card.classifier is not None
        self.config = config
        self.card = card
        self.classes = card.classes
        self.takes = card.classifier
        self._mask_classes = None if config.mask == "none" else with_background(card.classes)
        self._threshold = None if config.threshold_from is None else threshold_of(config.threshold_from)

    def schema(self, run: dict[str, Any]) -> pa.Schema:
        of_class = [
            ("class", pa.string()),
            ("probability", pa.float32()),
            ("found", pa.bool_()),  # rather than only known to be there
            ("boxes", pa.list_(pa.struct([(name, pa.int32()) for name in CORNERS]))),
            ("map_min", pa.float32()),
            ("map_max", pa.float32()),
            ("map_mean", pa.float32()),
        ]
        if self.config.heatmaps:  # raw value = offset + scale * grey
            of_class += [("heatmap", PICTURE), ("scale", pa.float32()), ("offset", pa.float32())]
        own = [
            pa.field("top_class", pa.string()),
            pa.field("top_probability", pa.float32()),
            pa.field("probabilities", pa.list_(pa.float32())),
            pa.field("classes", pa.list_(pa.struct(of_class))),
        ]
        if self.config.truth:
            own += [pa.field("known", pa.list_(pa.string())), pa.field("scored", pa.list_(SCORED))]
        if self._mask_classes is None:
            return images_schema(own, pictures=[], run=run)
        run = run | {"mask_classes": self._mask_classes.model_dump(mode="json")}
        return images_schema([*own, pa.field("mask", PICTURE)], pictures=["mask"], run=run)

    def truth(self, images: list[InputImage]) -> list[str | None]:
        """Classes and boxes, as JSON; see `Truth`."""
        if self.config.truth is None:
            return [None] * len(images)
        annotations = read_annotations(self.config.truth)
        index = {name: k for k, name in enumerate(self.classes.names)}
        masks = datasets.files_by_key(self.config.foreground) if self.config.foreground else {}
        truths: list[str | None] = []
        named, strangers = 0, dict[str, None]()
        for image in images:
            key = datasets.without_image_suffix(image.image_id)
            known = annotations.find(key)
            named += known is not None
            labels = known.labels if known else ()
            strangers |= dict.fromkeys(name for name in labels if name not in index)
            truth = Truth(
                classes=[index[name] for name in labels if name in index],
                boxes=[(index[box.label], *box[1:]) for box in (known.boxes if known else ()) if box.label in index],
                foreground=masks.get(key),
            )
            truths.append(json.dumps(truth._asdict()))
        where = storage.redact(self.config.truth)
        if images and not named:
            raise UserError(
                f"{where} names none of the images; the first image is '{images[0].image_id}', the first named "
                f"'{min(annotations.by_key, default='–')}'"
            )
        if strangers:
            print(f"{where}: the model does not know {', '.join(list(strangers)[:5])}; these are left out")
        return truths

    def load(self) -> Network:
        return Network(self.config)

    def refine(self, predicted: Any) -> Any:
        return predicted

    def row(self, predicted: dict[str, Any], truth: str | None) -> dict[str, Any]:
        turn = predicted["orientation"]
        size = (predicted["height"], predicted["width"])
        upright = size[::-1] if turn >= 5 else size
        probabilities = np.array(predicted["probabilities"], np.float32)
        raw = np.frombuffer(predicted["maps"], np.float32).reshape(predicted["map_shape"])
        found = predicted["found"]
        heatmaps = self._heatmaps(raw, upright)
        stem = posixpath.splitext(predicted["image_id"])[0]
        row: dict[str, Any] = {
            "top_class": self.classes.names[int(probabilities.argmax())],
            "top_probability": float(probabilities.max()),
            "classes": [
                self._of_class(k, probabilities[k], raw[i], from_upright(heatmaps[i], turn), stem, found=i < found)
                for i, k in enumerate(predicted["classes"])
            ],
        }
        if self._mask_classes is not None:
            mask = self._mask(predicted, heatmaps[:found], upright)
            row["mask"] = {"bytes": encode_mask(mask, self._mask_classes.palette), "path": f"{stem}.png"}
        if self.config.truth:
            known = Truth.read(truth)
            row["known"] = [self.classes.names[k] for k in known.classes]
            maps = {k: from_upright(raw[i], turn) for i, k in enumerate(predicted["classes"])}
            row["scored"] = [
                score_map(
                    maps[k],
                    k,
                    known,
                    rank=int((probabilities > probabilities[k]).sum()),
                    name=self.classes.names[k],
                    size=size,
                    frame=self.takes.size[::-1] if turn >= 5 else self.takes.size,
                    step=self.config.score_step,
                )
                for k in known.classes
                if any(box[0] == k for box in known.boxes) or known.foreground
            ]
        return row

    def _heatmaps(self, raw: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        maps = self.config.maps
        return activation.heatmaps(
            raw, size, how=maps.normalisation, order=maps.order, interpolation=maps.interpolation
        )

    def _of_class(
        self, k: int, probability: float, raw: NDArray, heatmap: NDArray, stem: str, *, found: bool
    ) -> dict[str, Any]:
        boxes = self._boxes(heatmap) if found else np.zeros((0, 4), np.int32)
        row = {
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
            row |= {"heatmap": {"bytes": png, "path": f"{stem}.{k}.png"}, "scale": scale, "offset": offset}
        return row

    def _boxes(self, heatmap: NDArray) -> Boxes:
        told = self.config.boxes
        match told.regions:
            case "largest":
                return largest_box(heatmap, threshold=told.threshold)
            case "all":
                return all_boxes(heatmap, threshold=told.threshold, min_share=told.min_share)
            case "distance":
                return distance_boxes(heatmap)

    def _mask(self, predicted: dict[str, Any], heatmaps: NDArray, upright: tuple[int, int]) -> NDArray:
        """Class indices on the stored pixels: 0 background, k + 1 the model's class k."""
        pixels = None
        if self.config.mask == "crf":
            pixels = np.frombuffer(predicted["pixels"], np.uint8).reshape(*upright, 3)
        labels = label_map(heatmaps, background=self.config.mask_background, pixels=pixels, crf=self.config.crf_params)
        of_class = np.array([0, *(k + 1 for k in predicted["classes"][: len(heatmaps)])])
        return from_upright(of_class[labels], predicted["orientation"])

    def report(self, run: str, files: Sequence[str], images: pa.dataset.Dataset) -> Report:
        caption = "image with boxes (red; true ones green), map"
        if not self.config.truth:
            return Report({}, {}, draw_localized(run, files, images, threshold=None), caption)
        step = self.config.score_step
        tables = localization_tables(images, self.classes, step=step, threshold=self._threshold)
        best = None
        if SCORES in tables:
            best = round(tables[SCORES]["threshold"][0].as_py() / step)
        sheet = draw_localized(run, files, images, threshold=best)
        return Report(tables, shown_tables(tables), sheet, caption)
