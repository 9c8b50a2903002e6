"""`segpipe ensemble`: two trained bundles become one that gives the fused scores of both."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import bundle
from pipeline.card import Card
from pipeline.commands.ensemble import EnsembleConfig, join
from pipeline.data.classes import Classes
from pipeline.errors import UserError
from pipeline.models import configure
from pipeline.models.pretrained import load_pretrained
from pipeline.models.upsampling import upsample
from tests.support.jobs import succeed

CLASSES = Classes(names=("sky", "road", "car"))


def store(folder: Path, name: str, *, classes: Classes = CLASSES, **options: object) -> Any:
    """Store a bundle of a narrow network with random scores, and return the network."""
    model = configure(name, {"width": 0.125} | options).build(len(classes)).eval()
    for parameter in (p for key, p in model.named_parameters() if "score" in key):
        torch.nn.init.normal_(parameter, std=0.1)
    card = Card(architecture=name, options={"width": 0.125} | options, classes=classes)
    bundle.save_bundle(str(folder), model, card)
    return model


def test_the_ensemble_of_two_bundles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = store(tmp_path / "a", "deconvnet"), store(tmp_path / "b", "fcn8s", at_once=True)
    output = tmp_path / "c"
    text = succeed("ensemble", deconvnet=tmp_path / "a", fcn8s=tmp_path / "b", output=output, fusion="product")
    assert f"bundle: {output} (3 classes, product)" in text
    model, card = bundle.load_bundle(str(output))
    assert card.classes == CLASSES
    images = torch.randn(1, 3, 60, 90)
    with torch.inference_mode():
        a, b = first(images).logits, upsample(second(images).logits, (60, 90), stride=8)
        found = model(images).logits
    torch.testing.assert_close(found, a.clamp(min=0) * b.clamp(min=0), rtol=1e-4, atol=1e-5)


def test_bundles_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    store(tmp_path / "deconvnet", "deconvnet")
    store(tmp_path / "fcn16s", "fcn16s")
    store(tmp_path / "wide", "fcn8s", width=0.25)
    store(tmp_path / "other", "fcn8s", classes=Classes(names=("sky", "road", "bus")))
    for fcn8s, message in (
        ("deconvnet", "expected a FCN"),
        ("fcn16s", "do not fit together"),
        ("wide", "do not fit together"),
        ("other", "different classes"),
    ):
        options = {
            "deconvnet": str(tmp_path / "deconvnet"),
            "fcn8s": str(tmp_path / fcn8s),
            "output": str(tmp_path / "out"),
        }
        with pytest.raises(UserError, match=message):
            join(EnsembleConfig(**options))
    assert not (tmp_path / "out").exists()


def test_staged_training_starts_from_a_bundle(tmp_path: Path) -> None:
    """FCN-16s takes all weights of a trained FCN-32s, given as the folder of its bundle."""
    coarse = store(tmp_path / "a", "fcn32s")
    fine: Any = configure("fcn16s", {"width": 0.125}).build(3).eval()
    report = load_pretrained(fine, bundle.read_checkpoint(str(tmp_path / "a")))
    assert sorted(report.fresh) == ["score_pool4.bias", "score_pool4.weight", "upscore_pool5.weight"]
    assert report.unused == []
    torch.testing.assert_close(fine.score.weight, coarse.score.weight)
    with pytest.raises(UserError, match=r"nowhere does not exist; a bundle is"):
        bundle.read_checkpoint(str(tmp_path / "nowhere"))
