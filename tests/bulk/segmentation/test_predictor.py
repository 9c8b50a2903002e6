"""The predictor of bulk segmentation hands its options on to the segmenter."""

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
