"""The predictor of bulk segmentation hands its options on to the segmenter."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.predictor import SegmentationPredictor
from pipeline.bundle import load_bundle, save_bundle
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import TTAOptions, Windows
from pipeline.predict.cpu_network import suit_cpu
from pipeline.predict.segmenter import Segmenter
from tests.support.networks import narrow

OPTIONS = {"width": 0.125, "output_stride": 8}
WINDOWS = {"above": 1, "size": 64, "overlap": 32}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    url = str(tmp_path_factory.mktemp("predictor") / "bundle")
    card = Card(architecture="deeplabv3_resnet18", options=OPTIONS, classes=Classes(names=("a", "b", "c")))
    save_bundle(url, narrow("deeplabv3_resnet18", 3, output_stride=8), card)
    return url


@pytest.mark.parametrize("options", [{}, {"windows": WINDOWS}, {"tta": {"scales": (0.5, 1), "flip": True}}])
def test_windows_and_augmentation_reach_the_network(bundle: str, tmp_path: Path, options: dict[str, Any]) -> None:
    config = SegmentConfig(model=bundle, images="-", output=str(tmp_path), crf=True, **options)
    pixels = np.random.default_rng(0).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    predictor = SegmentationPredictor(config, images=1)
    (found,) = predictor([pixels], [None])

    model, card = load_bundle(bundle)
    suit_cpu(model, torch.device("cpu"))
    (expected,) = Segmenter(
        model,
        preprocessing=card.preprocessing,
        device=torch.device("cpu"),
        windows=Windows(**options.get("windows", {})),
        tta=TTAOptions(**options.get("tta", {})),
        keep_scores=True,
    )([pixels])
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)
    (plain,) = Segmenter(model, preprocessing=card.preprocessing, device=torch.device("cpu"))([pixels])
    assert np.array_equal(found.labels, plain.labels) == (not options)
    assert found.scores is not None
    assert found.scores.shape == (3, 13, 17)
    assert found.stride == 8


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
def test_a_compiled_predictor_gives_the_same_masks(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both images of a full batch are computed by the compiled network, and a batch of one by the network as it is."""
    options: dict[str, Any] = {"model": bundle, "images": "-", "output": str(tmp_path)}
    images = list(np.random.default_rng(0).integers(0, 256, (2, 100, 130, 3), dtype=np.uint8))
    plain, compiled = (SegmentationPredictor(SegmentConfig(**options, compile=c), images=1) for c in (False, True))
    for predictor in (plain, compiled):
        predictor.batch_pixels = 2 * 100 * 130
    for batch in (images, images[:1]):
        for one, other in zip(plain(batch, [None] * 2), compiled(batch, [None] * 2), strict=True):
            assert (one.labels == other.labels).mean() > 0.999
            assert one.confidence == pytest.approx(other.confidence, abs=1e-5)
            assert one.entropy == pytest.approx(other.entropy, abs=1e-5)
    assert "not compiled" not in capsys.readouterr().err
