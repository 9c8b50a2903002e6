"""Bundles go to and come from the Hugging Face Hub's interface, which a server on this machine plays."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from pipeline.bundle import load_bundle, save_bundle
from pipeline.card import Card, read_card
from pipeline.commands import load
from pipeline.data.classes import Classes
from pipeline.errors import UserError
from pipeline.exchange.hub import model_card
from tests.support.fake_hub import Hub, fake_hub
from tests.support.jobs import REPO
from tests.support.networks import narrow

CLASSES = Classes(names=("road", "a | b <script>", "sky"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with fake_hub() as server:
        yield server


def write_bundle(folder: Path, seed: int = 0) -> str:
    torch.manual_seed(seed)
    training = {
        "config": {"train": {"images": "s3://secret-bucket/photos"}},
        "record": {"epoch": 3, "miou": 0.5, "best": True},
        "deconvnet": {"config": {"output": "s3://secret-bucket/model"}},
    }
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125}, classes=CLASSES, training=training)
    save_bundle(str(folder), narrow(card.architecture, len(CLASSES)), card)
    return str(folder)


def python(code: str, hub: Hub, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a process of its own, because huggingface_hub reads its endpoint when it is imported."""
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=os.environ | own | environment)


def segpipe(*arguments: str) -> str:
    return f"import sys; sys.argv = ['segpipe', *{arguments!r}]\nfrom pipeline.__main__ import main\nmain()"


def test_a_bundle_is_pushed_and_loaded(hub, tmp_path):
    bundle = write_bundle(tmp_path / "model")
    pushed = python(segpipe("export-model", bundle, "--hub", "team/roads"), hub, tmp_path)
    assert pushed.returncode == 0, pushed.stderr
    assert "repository: hf://team/roads" in pushed.stdout
    files = hub.files["team/roads"]
    assert set(files) - {".gitattributes"} == {"card.json", "README.md", read_card(bundle).weights}
    assert not any(b"secret-bucket" in data for data in files.values())
    code = "import sys, torch\nfrom pipeline.bundle import load_bundle\nmodel, card = load_bundle('hf://team/roads')\n"
    code += "print(card.fingerprint, sum(p.double().sum().item() for p in model.parameters()))"
    loaded = python(code, hub, tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    model, card = load_bundle(bundle)
    fingerprint, total = loaded.stdout.split()
    assert fingerprint == card.fingerprint
    assert float(total) == sum(p.double().sum().item() for p in model.parameters())
    # The next push replaces the weights.
    other = write_bundle(tmp_path / "other", seed=1)
    assert python(segpipe("export-model", other, "--hub", "team/roads"), hub, tmp_path).returncode == 0
    assert {name for name in files if name.startswith("weights")} == {read_card(other).weights}


def test_the_hub_s_refusals_are_one_line(hub, tmp_path):
    bundle = write_bundle(tmp_path / "model")
    refused = python(segpipe("export-model", bundle, "--hub", "team/roads"), hub, tmp_path, HF_TOKEN="hf_wrong")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: cannot push to team/roads: ")
    assert "Traceback" not in refused.stderr
    offline = python(
        segpipe("export-model", bundle, "--hub", "team/roads"), hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert offline.returncode == 2
    assert offline.stderr.splitlines()[-1].startswith("error: cannot push to team/roads: ")
    missing = python(segpipe("export-model", "hf://team/none", "--folder", str(tmp_path / "x")), hub, tmp_path)
    assert missing.returncode == 2
    assert missing.stderr.startswith(
        "error: hf://team/none does not exist; a bundle is the output folder of segpipe train"
    )


def test_a_folder_has_the_layout_and_is_a_bundle(tmp_path):
    bundle = write_bundle(tmp_path / "model")
    load("export-model").main([bundle, "--folder", str(tmp_path / "folder")])
    card = ModelCard.load(tmp_path / "folder" / "README.md")
    assert card.data.to_dict() == {
        "library_name": "segpipe",
        "pipeline_tag": "image-segmentation",
        "tags": ["segpipe", "image-segmentation", "deeplabv3_resnet18"],
    }
    _, copied = load_bundle(str(tmp_path / "folder"))
    assert copied.fingerprint == read_card(bundle).fingerprint
    assert copied.training == {"record": {"epoch": 3, "miou": 0.5, "best": True}, "deconvnet": {}}
    assert "secret-bucket" not in "".join(path.read_text() for path in (tmp_path / "folder").glob("*.[jm]*"))


def test_the_text_of_the_card_is_escaped():
    text = model_card(Card(architecture="fcn8s", options={}, classes=CLASSES), repository="team/roads")
    assert r"a \| b &lt;script>" in text
    assert 'Segmenter.from_bundle("hf://team/roads")' in text
    assert yaml.safe_load(text.split("---")[1])["pipeline_tag"] == "image-segmentation"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name what to write: --onnx FILE, --hub OWNER/NAME or --folder URL"),
        (["--hub", "roads"], "--hub: String should match pattern"),
        (["--size", "3,4", "--folder", "/x"], "--size needs --onnx"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load("export-model").main([str(tmp_path), *arguments])


def test_the_bundle_s_own_folder_stays_as_it_is(tmp_path):
    bundle = write_bundle(tmp_path / "model")
    with pytest.raises(UserError, match="--folder is the bundle itself"):
        load("export-model").main([bundle, "--folder", bundle])
    assert json.loads((tmp_path / "model/card.json").read_text())["training"]["config"]
