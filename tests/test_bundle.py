"""Bundles and checkpoints: round trips, fingerprints, errors, and safety from code in pickles."""

import hashlib
import io
import itertools
import json
import os
import posixpath
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline import models, storage
from pipeline.bundle import Card, load_bundle, read_card, read_checkpoint, save_bundle
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import UserError

CLASSES = Classes(names=("a", "b", "c"), colours=((0, 0, 0), (1, 2, 3), (4, 5, 6)), values={0: "ignore", 1: "a"})
OPTIONS = {"width": 0.125, "output_stride": 8}
_counter = itertools.count()


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a bundle that does not exist yet, on each kind of store."""
    return str(tmp_path / "bundle") if request.param == "local" else f"memory://bundles-{next(_counter)}/bundle"


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return models.configure("deeplabv3_resnet18", OPTIONS).build(len(CLASSES)).eval()


def card(**changes: Any) -> Card:
    return Card(**{"architecture": "deeplabv3_resnet18", "options": OPTIONS, "classes": CLASSES} | changes)


def names(url: str) -> list[str]:
    return sorted(posixpath.basename(file.path) for file in storage.list_files(url))


def assert_one_line(error: BaseException, *parts: str) -> None:
    assert "\n" not in str(error)
    for part in parts:
        assert part in str(error)


def change_card(url: str, **changes: object) -> None:
    """Change some fields in the card of a bundle."""
    place = storage.join(url, "card.json")
    content = json.loads(storage.read_text(place, noun="card")) | changes
    storage.write_bytes(place, json.dumps(content).encode())


# --- saving and loading


def test_a_bundle_restores_the_network_and_its_card(url: str) -> None:
    model = network()
    # Change the running statistics of batch normalisation, which must be saved too.
    model.train()(torch.randn(2, 3, 32, 32))
    model.eval()
    preprocessing = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    training = {"epoch": 7, "iou": {"a": 0.5}}
    written = save_bundle(url, model, card(preprocessing=preprocessing, training=training))

    loaded, read = load_bundle(url)

    images = torch.randn(2, 3, 40, 24)
    with torch.inference_mode():
        assert torch.equal(loaded(images).logits, model(images).logits)
    assert not loaded.training
    assert read == written == read_card(url)
    assert read.fingerprint == written.fingerprint
    assert (read.classes, read.preprocessing, read.options) == (CLASSES, preprocessing, OPTIONS)
    assert read.training == training
    assert read.created.startswith("20")


def test_a_second_save_replaces_the_first_and_its_weights(url: str) -> None:
    first = save_bundle(url, network(0), card())
    second = save_bundle(url, network(1), card())
    assert first.weights != second.weights
    assert names(url) == ["card.json", second.weights]
    loaded, read = load_bundle(url)
    assert read.fingerprint == second.fingerprint
    assert torch.equal(loaded.state_dict()["classifier.4.weight"], network(1).classifier[4].weight)


def test_saving_the_same_weights_again_keeps_them(url: str) -> None:
    written = [save_bundle(url, network(), card()) for _ in range(2)]
    assert written[0].fingerprint == written[1].fingerprint
    assert names(url) == ["card.json", written[0].weights]
    load_bundle(url)


def test_saving_keeps_other_files(url: str) -> None:
    for name in ("metrics.jsonl", "weights-imagenet.pth", "checkpoints/weights-0123456789abcdef.safetensors"):
        storage.write_bytes(storage.join(url, name), b"x")
    save_bundle(url, network(0), card())
    save_bundle(url, network(1), card())
    remaining = set(names(url))
    assert {"metrics.jsonl", "weights-imagenet.pth", "weights-0123456789abcdef.safetensors"} <= remaining
    assert len(remaining) == 5


def test_the_memory_format_of_the_weights_does_not_matter(url: str) -> None:
    model = network()
    contiguous = save_bundle(url, model, card())
    channels_last = save_bundle(url, model.to(memory_format=torch.channels_last), card())
    assert channels_last.fingerprint == contiguous.fingerprint
    loaded = load_bundle(url)[0].state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_the_weights_are_named_by_their_content(url: str) -> None:
    written = save_bundle(url, network(), card())
    assert written.weights == f"weights-{written.weights_sha256[:16]}.safetensors"
    assert read_checkpoint(storage.join(url, written.weights)).keys() == network().state_dict().keys()


# --- fingerprints


def test_the_fingerprint_depends_on_everything_that_changes_predictions() -> None:
    base = card(weights_sha256="0" * 64)
    changes: list[dict[str, Any]] = [
        {"weights_sha256": "1" * 64},
        {"architecture": "deeplabv3_resnet50"},
        {"options": OPTIONS | {"output_stride": 16}},
        {"preprocessing": Preprocessing(mean=(0, 0, 0))},
        {"preprocessing": Preprocessing(std=(1, 1, 1))},
        {"classes": Classes(names=("a", "b"))},
    ]
    prints = [base.fingerprint, *(base.model_copy(update=change).fingerprint for change in changes)]
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_depends_on_nothing_else() -> None:
    base = card(weights_sha256="0" * 64)
    renamed = Classes(names=("x", "y", "z"), ignore_index=200)
    changes: list[dict[str, Any]] = [
        {"created": "2001-01-01T00:00:00+00:00"},
        {"training": {"epoch": 3}},
        {"code_version": "9"},
        {"options": dict(reversed(OPTIONS.items()))},
        {"classes": renamed},
    ]
    for change in changes:
        assert base.model_copy(update=change).fingerprint == base.fingerprint


def test_the_fingerprint_depends_on_each_weight(url: str) -> None:
    model = network()
    first = save_bundle(url, model, card())
    with torch.no_grad():
        model.classifier[4].bias[0] += 1e-6
    assert save_bundle(url, model, card()).fingerprint != first.fingerprint


# --- unusable bundles


def test_a_missing_bundle_is_reported(url: str) -> None:
    with pytest.raises(UserError) as caught:
        load_bundle(url)
    assert_one_line(caught.value, url, "does not exist; a bundle is the output folder of segpipe train")


def test_what_is_no_bundle_is_described_in_the_words_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(UserError, match="has no bundle yet: the training there has not finished an epoch"):
        read_card(str(tmp_path))
    with pytest.raises(UserError, match=r"training\.json is not a bundle; a bundle is the output folder of segpipe"):
        read_card(str(tmp_path / "training.json"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Invalid JSON"),
        ("nonsense", "Invalid JSON"),
        ("[]", "should be an object"),
        ("{}", "architecture: Field required"),
        ('{"architecture": "fcn8s", "options": {}, "classes": {"names": []}}', "classes.names"),
        ('{"architecture": "fcn8s", "options": {}, "classes": {"names": ["a"]}, "colour": 1}', "colour"),
    ],
)
def test_an_invalid_card_is_refused(url: str, text: str, problem: str) -> None:
    storage.write_bytes(storage.join(url, "card.json"), text.encode())
    with pytest.raises(UserError) as caught:
        load_bundle(url)
    assert_one_line(caught.value, f"bundle {url}: its card.json is not valid (", problem)
    assert "(:" not in str(caught.value)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
def test_damaged_weights_are_refused(url: str, damage: str) -> None:
    place = storage.join(url, save_bundle(url, network(), card()).weights)
    data = bytearray(storage.read_bytes(place))
    data[-1] ^= 1
    storage.write_bytes(place, {"flipped": bytes(data), "truncated": bytes(data[:-9]), "empty": b""}[damage])
    with pytest.raises(UserError) as caught:
        load_bundle(url)
    assert_one_line(caught.value, f"bundle {url}", "is damaged", "SHA-256")


def test_missing_weights_are_reported(url: str) -> None:
    place = storage.join(url, save_bundle(url, network(), card()).weights)
    storage.remove(place)
    with pytest.raises(UserError) as caught:
        load_bundle(url)
    assert_one_line(caught.value, "cannot read the weights", place, "does not exist")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"architecture": "unet3"}, "unknown model 'unet3'"),
        ({"options": {"depth": 7}}, "option 'depth'"),
        ({"options": {"width": 0.25}}, "size mismatch"),
        ({"architecture": "fcn8s", "options": {"width": 0.125}}, "Missing key"),
        ({"classes": {"names": ["a", "b"]}}, "size mismatch"),
    ],
)
def test_a_card_that_does_not_fit_its_weights_is_refused(url: str, changes: dict, problem: str) -> None:
    save_bundle(url, network(), card())
    change_card(url, **changes)
    with pytest.raises(UserError) as caught:
        load_bundle(url)
    assert_one_line(caught.value, f"bundle {url} does not fit this version of segpipe", problem)


W = "weights-0123456789abcdef.safetensors"


@pytest.mark.parametrize(
    "weights",
    [
        *(
            "../secret.safetensors",
            "../../../../etc/passwd",
            "/etc/passwd",
            "secret.safetensors",
            "",
            ".",
            "..",
            "card.json",
        ),
        *(f"../{W}", f"/{W}", f"./{W}", f"a/{W}", f"a/../../{W}", f"..\\{W}", f"{W}/", f"{W}/../x", f"\\\\host\\{W}"),
        *(f"file:///etc/{W}", f"s3://bucket/{W}", f"https://host/{W}", f"zip://x::{W}", f"{W}?versionId=1", f"{W}#x"),
        *(f"{W}\0", f"/etc/passwd\0{W}", f"{W}\u2028", f" {W}", W.upper(), W.replace("0", "\u0660")),
    ],
)
def test_weights_outside_the_bundle_are_refused_before_they_are_read(
    url: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_bundle(url, network(), card())
    change_card(url, weights=weights)
    read: list[str] = []
    read_bytes = storage.read_bytes

    def recording(place: str) -> bytes:
        read.append(place)
        return read_bytes(place)

    monkeypatch.setattr(storage, "read_bytes", recording)
    for load in (load_bundle, read_checkpoint):
        with pytest.raises(UserError) as caught:
            load(url)
        assert "as the weights; expected a file weights-<16 hexadecimal digits>.safetensors" in str(caught.value)
    assert {posixpath.basename(place) for place in read} == {"card.json"}


def test_a_card_that_asks_for_a_huge_network_takes_no_memory(tmp_path: Path) -> None:
    """In a process of its own, whose peak memory is measured: the network of the card would fill any machine."""
    url = str(tmp_path / "bundle")
    save_bundle(url, network(), card())
    change_card(url, options={"width": 1e5})
    code = f"""
import resource
from pipeline.bundle import load_bundle
from pipeline.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_bundle({url!r})
except UserError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mebibytes, _, message = result.stdout.partition(" ")
    assert "does not fit this version of segpipe" in message
    assert int(mebibytes) < 200


@pytest.mark.parametrize("value", [1e6, 1e18, 1e300, 1.7e308, 10**9, 10**30, -1, 0, [10**9] * 4, "x", {}])
def test_numbers_that_no_network_has_are_refused_at_once(url: str, value: object) -> None:
    save_bundle(url, network(), card())
    for architecture, option in (
        ("unet", "width"),
        ("resnet50_cam", "added"),
        ("wrn_28_10", "depth"),
        ("wrn_28_10", "widen"),
    ):
        if (option, value) == ("added", 0):
            continue
        change_card(url, architecture=architecture, options={option: value})
        with pytest.raises(UserError) as caught:
            load_bundle(url)
        assert_one_line(caught.value, f"bundle {url} does not fit this version of segpipe", f"option '{option}'")
    change_card(url, classifier={"size": [value, 32], "multi_label": False})
    with pytest.raises(UserError) as caught:
        load_bundle(url)
    assert_one_line(caught.value, "card.json is not valid (classifier.size.0")


def test_weights_that_are_a_link_to_another_file_are_refused(tmp_path: Path) -> None:
    bundle = str(tmp_path / "bundle")
    weights = Path(bundle, save_bundle(bundle, network(), card()).weights)
    for target, message in (("/etc/passwd", "is damaged"), ("/dev/zero", "a pipe, a socket or a device")):
        weights.unlink()
        weights.symlink_to(target)
        with pytest.raises(UserError) as caught:
            load_bundle(bundle)
        assert_one_line(caught.value, message)
        assert "/bin/" not in str(caught.value)


@pytest.mark.parametrize("name", ["unet_valid", "fcn8s", "deconvnet", "resnet110", "googlenet_cam"])
def test_a_loaded_network_computes_the_same(name: str) -> None:
    """It is built without memory, so everything that it computes with must come from the file."""
    torch.manual_seed(0)
    saved = models.configure(name, {"width": 0.125}).build(len(CLASSES)).eval()
    url = f"memory://bundles-{next(_counter)}/bundle"
    save_bundle(url, saved, card(architecture=name, options={"width": 0.125}))
    loaded, _ = load_bundle(url)
    assert not any(tensor.is_meta for tensor in itertools.chain(loaded.parameters(), loaded.buffers()))
    images = torch.randn(1, 3, 40, 56)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images).logits, saved(images).logits, rtol=0, atol=0)


def test_weights_that_are_no_tensors_are_refused_even_with_the_right_hash(url: str) -> None:
    save_bundle(url, network(), card())
    storage.write_bytes(storage.join(url, "weights-x.safetensors"), b"no tensors at all")
    change_card(url, weights="weights-x.safetensors", weights_sha256=hashlib.sha256(b"no tensors at all").hexdigest())
    with pytest.raises(UserError) as caught:
        load_bundle(url)
    assert_one_line(caught.value, f"bundle {url}")


# --- foreign checkpoints


def pickled(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_checkpoints_are_read_from_both_formats(url: str) -> None:
    state = {"a.weight": torch.randn(2, 3), "b": torch.arange(3)}
    storage.write_bytes(storage.join(url, "w.pth"), pickled(state))
    storage.write_bytes(storage.join(url, "w.safetensors"), safetensors.torch.save(state))
    for name in ("w.pth", "w.safetensors"):
        found = read_checkpoint(storage.join(url, name))
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in state.items())


class Bomb:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, folder: str):
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["w.pth", "w.bin"])
def test_code_in_a_checkpoint_is_refused_and_not_run(url: str, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "created by the checkpoint"
    data = pickled({"w": torch.ones(1), "bomb": Bomb(str(folder))})
    place = storage.join(url, name)
    storage.write_bytes(place, data)

    with pytest.raises(UserError) as caught:
        read_checkpoint(place)

    assert_one_line(caught.value, f"weights {place}: not a checkpoint of tensors")
    assert not folder.exists()
    torch.load(io.BytesIO(data), weights_only=False)  # proves that the code works
    assert folder.exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("data", [b"", b"text", b"\x80\x02.", b"PK\x03\x04" + bytes(50)])
def test_other_files_are_refused_as_checkpoints(url: str, name: str, data: bytes) -> None:
    place = storage.join(url, name)
    storage.write_bytes(place, data)
    with pytest.raises(UserError) as caught:
        read_checkpoint(place)
    assert_one_line(caught.value, f"weights {place}: not a checkpoint of tensors")


@pytest.mark.parametrize("content", [{"state": {"w": torch.ones(1)}}, [torch.ones(1)], torch.ones(1), {"w": 1}])
def test_checkpoints_without_a_state_dict_are_refused(url: str, content: object) -> None:
    place = storage.join(url, "w.pth")
    storage.write_bytes(place, pickled(content))
    with pytest.raises(UserError, match="expected a state dict of tensors"):
        read_checkpoint(place)


def test_a_missing_checkpoint_is_reported(url: str) -> None:
    with pytest.raises(UserError, match=r"cannot read the weights .*nowhere.pth: it does not exist"):
        read_checkpoint(storage.join(url, "nowhere.pth"))
