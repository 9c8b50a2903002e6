"""ONNX files of bundles: onnxruntime gives PyTorch's labels for images of any size, or one line says why not."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pipeline.api import Segmenter
from pipeline.bundle import save_bundle
from pipeline.card import Card
from pipeline.commands import load
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import ClassifierInput, Preprocessing
from pipeline.errors import UserError
from pipeline.exchange import to_onnx
from pipeline.models.layers import SegmentationOutput
from tests.support.networks import liven, narrow

CLASSES = Classes(names=("road", "car", "sky"))


def write_bundle(folder: Path, name: str) -> str:
    torch.manual_seed(0)
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))
    card = Card(architecture=name, options={"width": 0.125}, classes=CLASSES, preprocessing=preprocessing)
    save_bundle(str(folder), liven(narrow(name, len(CLASSES))), card)
    return str(folder)


def test_labels_are_those_of_a_bulk_run_for_images_of_any_size(tmp_path, capsys):
    """Also of sizes that no stride divides. SegNet unpools by the positions of maxima."""
    bundle = write_bundle(tmp_path / "model", "segnet_basic")
    load("export-model").main([bundle, "--onnx", str(tmp_path / "out/model.onnx")])
    assert "100.0000%" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx"))
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["batch", "height", "width", 3])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(CLASSES.names)
    assert json.loads(about["preprocessing"])["mean"] == [0.4, 0.5, 0.6]
    segmenter = Segmenter.from_bundle(bundle)
    for size in ((40, 71), (97, 50)):
        pixels = to_onnx.drawn_images((1, *size))
        labels, scores = session.run(None, {"image": pixels})
        assert scores.shape == (1, len(CLASSES), *size)
        expected = segmenter(pixels[0]).labels
        assert len(np.unique(expected)) > 1
        assert (labels[0] == expected).mean() > 0.999


class Rows(nn.Module):
    """A network whose loop over the rows the exporter can unroll for images of one height only."""

    output_stride = 1

    def forward(self, images: Tensor) -> SegmentationOutput:
        return SegmentationOutput(torch.stack([row * len(images.unbind(2)) for row in images.unbind(2)], dim=2))


def test_a_network_of_one_size(tmp_path, monkeypatch):
    card = Card(architecture="rows", options={}, classes=CLASSES)
    monkeypatch.setattr(to_onnx, "load_bundle", lambda url: (Rows(), card))
    monkeypatch.setattr(to_onnx, "TRACED", (2, 5, 7))
    url = str(tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"(cannot be exported|cannot compute images) .* With --size") as found:
        load("export-model").main([str(tmp_path), "--onnx", url])
    assert "\n" not in str(found.value)
    assert not Path(url).exists()
    load("export-model").main([str(tmp_path), "--onnx", url, "--size", "6,9"])
    shape = onnx.load(url).graph.input[0].type.tensor_type.shape
    assert [axis.dim_param or axis.dim_value for axis in shape.dim] == ["batch", 6, 9, 3]


class Wrong(nn.Module):
    """A network that ONNX computes otherwise, because its export has other weights."""

    output_stride = 1

    def forward(self, images: Tensor) -> SegmentationOutput:
        sign = -1.0 if torch.compiler.is_exporting() else 1.0
        return SegmentationOutput(sign * images)


def test_another_result_is_refused(tmp_path, monkeypatch):
    card = Card(architecture="fcn8s", options={}, classes=CLASSES)
    monkeypatch.setattr(to_onnx, "load_bundle", lambda url: (Wrong(), card))
    with pytest.raises(UserError, match=r"same label for only .*% of the pixels .* nothing was written"):
        to_onnx.export_onnx("bundle", str(tmp_path / "model.onnx"))
    assert not list(tmp_path.iterdir())


def test_other_models_are_refused(tmp_path):
    card = Card(
        architecture="resnet18_cam",
        options={"width": 0.125},
        classes=CLASSES,
        classifier=ClassifierInput(size=(64, 64), multi_label=False),
    )
    save_bundle(str(tmp_path / "model"), narrow(card.architecture, len(CLASSES)), card)
    with pytest.raises(UserError, match="is no segmentation network"):
        to_onnx.export_onnx(str(tmp_path / "model"), str(tmp_path / "model.onnx"))
