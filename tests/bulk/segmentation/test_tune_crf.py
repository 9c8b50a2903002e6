"""The search for the CRF's parameters counts the same on the device of the network as in CPU tasks."""

import numpy as np

from benchmarks.crf_scenes import STRIDE, draw
from pipeline.bulk.segmentation.config import TuneConfig
from pipeline.bulk.segmentation.tune_crf import ScoredImage, Scorer, count_chunk
from pipeline.bundle import save_bundle
from pipeline.card import Card
from pipeline.crf import CRFParams
from pipeline.data.classes import Classes
from tests.support.networks import narrow

CLASSES = Classes(names=("a", "b", "c"))
PARAMS = CRFParams(sigma_alpha=20, sigma_beta=8)


def test_the_device_of_the_network_counts_what_a_task_counts(tmp_path) -> None:
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125}, classes=CLASSES)
    save_bundle(str(tmp_path / "bundle"), narrow(card.architecture, 3), card)
    urls = {name: str(tmp_path / name) for name in ("images", "labels", "output")}
    scorer = Scorer(TuneConfig(model=str(tmp_path / "bundle"), **urls), CLASSES)
    scenes = [draw(80, 60, classes=3, present=3, seed=seed) for seed in range(2)]
    chunk = [
        ScoredImage(s.pixels, s.scores.astype(np.float16), STRIDE, s.truth.astype(np.int32), np.zeros_like(s.truth))
        for s in scenes
    ]
    expected, found = (count(chunk, PARAMS, "pruned", CLASSES).matrix for count in (count_chunk, scorer.count))
    assert found.sum() == expected.sum() == 2 * 80 * 60
    assert np.count_nonzero(expected.sum(axis=0)) > 1
    assert np.abs(found - expected).sum() <= 10, "a few pixels may round to another label"
    (without,) = {count(chunk, None, "pruned", CLASSES).matrix.tobytes() for count in (count_chunk, scorer.count)}
    assert without != expected.tobytes()
