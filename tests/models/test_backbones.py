"""Backbones and published weights against torchvision's modules, and the options of architectures.

Networks that must agree run in float64, where the order of a processor's sums changes no more than the 14th digit.
"""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models import ARCHITECTURES, configure
from pipeline.models.backbones.alexnet import AlexNet
from pipeline.models.backbones.resnet import BLOCKS, Depth, ResNet
from pipeline.models.backbones.vgg import VGG16
from pipeline.models.deeplabv3 import DeepLabV3Config
from pipeline.models.layers import scaled
from pipeline.models.pretrained import Loaded, load_pretrained
from pipeline.models.upsampling import upsample
from tests.support.networks import NARROW, liven, narrow, torchvision_model


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def narrow_vgg16(*, batch_norm: bool = False) -> Any:
    """Return torchvision's VGG16 with an eighth of the channels."""
    plan = [8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"]
    with torch.device("meta"):  # the full width is never allocated
        model: Any = torchvision.models.VGG(nn.Identity(), num_classes=10, init_weights=False)
    model.features = torchvision.models.vgg.make_layers(plan, batch_norm=batch_norm)
    model.classifier[0], model.classifier[3] = nn.Linear(64 * 7 * 7, 512), nn.Linear(512, 512)
    model.classifier[6] = nn.Linear(512, 10)
    return liven(model).double()


def torchvision_resnet_layers(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs of layer3 and layer4 of torchvision's ResNet."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    layer3 = model.layer3(model.layer2(model.layer1(x)))
    return layer3, model.layer4(layer3)


@pytest.mark.parametrize(("output_stride", "size"), [(8, (9, 5)), (16, (5, 3)), (32, (3, 2))])
@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_features_have_the_chosen_stride(
    depth: Depth, output_stride: Literal[8, 16, 32], size: tuple[int, int]
) -> None:
    features = ResNet(depth=depth, output_stride=output_stride, width=0.125).eval()(torch.randn(1, 3, 70, 40))
    assert features.layer4.shape[-2:] == size
    assert features.layer3.shape[-2:] == ((9, 5) if output_stride == 8 else (5, 3))


def test_width_scales_channels_in_multiples_of_8() -> None:
    assert [scaled(64, 1.0), scaled(100, 1.0)] == [64, 100]
    assert [scaled(64, 0.5), scaled(64, 0.125), scaled(64, 0.01), scaled(512, 0.3)] == [32, 8, 8, 152]


# --- against torchvision


def test_deeplabv3_resnet50_is_torchvisions() -> None:
    theirs = liven(
        torchvision.models.segmentation.deeplabv3_resnet50(
            weights=None, weights_backbone=None, aux_loss=True, num_classes=21
        )
    ).double()
    ours = DeepLabV3Config(depth=50, output_stride=8, auxiliary_head=True).build(21).eval().double()
    assert ours.aux_classifier is not None
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 24, dtype=torch.float64)
    with torch.inference_mode():
        expected = theirs(images)
        logits = upsample(ours(images).logits, (32, 24), stride=8)
        auxiliary = upsample(ours.aux_classifier(ours.backbone(images).layer3), (32, 24), stride=8)
    assert expected["out"].std() > 0.01
    torch.testing.assert_close(logits, expected["out"])
    torch.testing.assert_close(auxiliary, expected["aux"])


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_features_are_torchvisions(depth: Depth) -> None:
    theirs = torchvision_model(f"resnet{depth}")
    ours = ResNet(depth=depth).eval().double()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}, strict=True)
    images = torch.randn(1, 3, 65, 47, dtype=torch.float64)
    with torch.inference_mode():
        for mine, expected in zip(ours(images), torchvision_resnet_layers(theirs, images), strict=True):
            torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("depth", BLOCKS)
def test_every_resnet_has_torchvisions_tensors(depth: Depth) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")().state_dict()
        ours = ResNet(depth=depth).state_dict()
    expected = {name: tensor.shape for name, tensor in theirs.items() if not name.startswith("fc.")}
    assert {name: tensor.shape for name, tensor in ours.items()} == expected


def test_vgg16_checkpoint_becomes_fcn() -> None:
    theirs = narrow_vgg16()
    ours: Any = configure("fcn32s", NARROW).build(3).eval().double()

    report = load_pretrained(ours, theirs.state_dict())

    assert sorted(report.fresh) == ["score.bias", "score.weight"]
    assert sorted(report.unused) == ["classifier.6.bias", "classifier.6.weight"]
    assert len(report.loaded) == 30
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    pool5 = torch.rand(1, 64, 7, 7, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.backbone(images).pool5, theirs.features(images))
        # fc6 sees the whole 7x7 map only at its centre; elsewhere it also sees padding.
        hidden = F.relu(ours.fc7(F.relu(ours.fc6(pool5))))[:, :, 3, 3]
        expected = theirs.classifier[:5](pool5.flatten(1))
    assert expected.std() > 0.001
    torch.testing.assert_close(hidden, expected)


def test_vgg16_maps_follow_its_pools() -> None:
    theirs, ours = narrow_vgg16().features, VGG16(width=0.125).eval().double()
    theirs.load_state_dict(ours.features.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 32, dtype=torch.float64)
    with torch.inference_mode():
        for mine, end in zip(ours(images), (5, 10, 17, 24, 31), strict=True):
            torch.testing.assert_close(mine, theirs[:end](images))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda: torchvision_model("alexnet"), AlexNet),
        (narrow_vgg16, lambda: VGG16(width=0.125)),
        (lambda: narrow_vgg16(batch_norm=True), lambda: VGG16(width=0.125, batch_norm=True)),
    ],
    ids=["alexnet", "vgg16", "vgg16_bn"],
)
def test_other_backbones_are_torchvisions(theirs: Callable[[], Any], ours: Callable[[], nn.Module]) -> None:
    expected_of, mine = theirs(), ours().eval().double()
    state = {k: v for k, v in expected_of.state_dict().items() if not k.startswith("classifier.")}
    mine.load_state_dict(state, strict=True)
    images = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected, found = expected_of.features(images), mine(images)
    assert expected.std() > 0.001
    torch.testing.assert_close(found if isinstance(found, Tensor) else found[-1], expected)


def test_wide_resnet50_is_torchvisions() -> None:
    theirs = torchvision_model("wide_resnet50_2")
    ours = ResNet(depth=50, widen=2).eval().double()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}, strict=True)
    images = torch.randn(1, 3, 64, 32, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images).layer4, torchvision_resnet_layers(theirs, images)[1])


# --- published weights


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # batch counters, which are not compared
@pytest.mark.parametrize(
    ("name", "options", "checkpoint", "fresh"),
    [
        ("fcn32s", {"geometry": "paper"}, "vgg16", {"score", "upscore"}),
        ("deeplabv1_7x7", {}, "vgg16", {"score"}),
        ("deeplabv1_largefov", {}, "vgg16", {"fc6", "fc7", "score"}),
        ("deeplabv2_vgg16", {"multi_scale": True}, "vgg16", {"aspp"}),
        ("deeplabv2_resnet101", {}, "resnet101", {"aspp"}),
        ("deeplabv3_wide_resnet50", {}, "wide_resnet50_2", {"classifier"}),
        ("pspnet_resnet50", {"deep_stem": False}, "resnet50", {"pyramid", "classifier", "aux_classifier"}),
        ("segnet", {}, "vgg16_bn", {"decoder", "score"}),
        ("deep_contextual", {}, "vgg16", {"branches"}),
        ("sliding_window_alexnet", {}, "alexnet", {"classifier"}),
        ("sliding_window_vgg16", {}, "vgg16", {"classifier"}),
    ],
)
def test_published_weights_find_their_place(name: str, options: dict, checkpoint: str, fresh: set[str]) -> None:
    """Only the heads keep their initialisation; fully connected layers of the classifier become convolutions."""
    with torch.device("meta"):
        state = torchvision.models.get_model(checkpoint).state_dict()
        model = configure(name, options).build(4)
    report = load_pretrained(model, state)
    left = [n for n in report.fresh if not n.endswith("num_batches_tracked")]
    assert {n.split(".")[0] for n in left} == fresh
    if name.startswith("sliding"):
        assert sorted(left) == ["classifier.6.bias", "classifier.6.weight"]


def test_deconvnet_takes_the_classifiers_hidden_layers() -> None:
    with torch.device("meta"):
        model = configure("deconvnet", {}).build(4)
        report = load_pretrained(model, torchvision.models.vgg16_bn().state_dict())
    assert {"fc6.0.weight", "fc6.0.bias", "fc7.0.weight", "fc7.0.bias"} <= set(report.loaded)
    assert not [n for n in report.fresh if n.startswith("backbone")]


def test_a_checkpoint_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="none of its tensors has a place"):
        load_pretrained(narrow("unet"), {"conv1.weight": torch.zeros(64, 3, 7, 7)})


def test_resnet18_checkpoint_fills_the_backbone() -> None:
    theirs = torchvision_model("resnet18").float()
    model = DeepLabV3Config(depth=18, output_stride=16).build(4).eval()
    head = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith("classifier.")}

    report = load_pretrained(model, theirs.state_dict())

    state = model.state_dict()
    for name, tensor in theirs.state_dict().items():
        if not name.startswith("fc."):
            torch.testing.assert_close(state[f"backbone.{name}"], tensor, rtol=0, atol=0)
    for name, tensor in head.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
    assert sorted(report.unused) == ["fc.bias", "fc.weight"]
    assert sorted(report.fresh) == sorted(head)
    assert len(report.loaded) + len(report.fresh) == len(state)


def test_a_checkpoint_without_batch_counters_loads_completely() -> None:
    """Files from before PyTorch 0.4.1 have no `num_batches_tracked`."""
    model = narrow("deeplabv3_resnet18")
    old = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    report = load_pretrained(model, old)
    assert sorted(report.loaded) == sorted(old)


def test_a_checkpoint_of_other_classes_gives_all_but_the_scores() -> None:
    source = narrow("deeplabv3_resnet18", num_classes=21, auxiliary_head=True)
    target = narrow("deeplabv3_resnet18", num_classes=5, auxiliary_head=True)
    report = load_pretrained(target, source.state_dict())
    scores = ["aux_classifier.4.bias", "aux_classifier.4.weight", "classifier.4.bias", "classifier.4.weight"]
    assert sorted(report.fresh) == sorted(report.unused) == scores
    torch.testing.assert_close(target.classifier[1].weight, source.classifier[1].weight)


def test_a_checkpoints_auxiliary_head_is_left_out_where_there_is_none() -> None:
    source = narrow("deeplabv3_resnet18", auxiliary_head=True).state_dict()
    report = load_pretrained(narrow("deeplabv3_resnet18"), source)
    assert report.fresh == []
    assert {name.split(".")[0] for name in report.unused} == {"aux_classifier"}


@pytest.mark.parametrize(
    ("name", "checkpoint", "message"),
    [
        ("fcn32s", "resnet18", r"'backbone.features.0.weight', is not in it"),
        ("deeplabv3_resnet18", "vgg16", r"'backbone.conv1.weight', is not in it"),
        ("deeplabv3_resnet18", "resnet18", r"'backbone.conv1.weight', has shape \(64, 3, 7, 7\), not \(8, 3, 7, 7\)"),
        ("deeplabv3_resnet18", None, "is not in it"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(name: str, checkpoint: str | None, message: str) -> None:
    with torch.device("meta"):
        state = getattr(torchvision.models, checkpoint)().state_dict() if checkpoint else {}
    model = narrow(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"does not fit this backbone: .*{message}"):
        load_pretrained(model, state)
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=0)


def test_only_fully_connected_layers_are_reshaped() -> None:
    """A convolution with the same number of weights in another shape is refused."""
    model = narrow("deeplabv3_resnet50")
    state = model.state_dict()
    name = "backbone.layer1.0.conv3.weight"
    assert state[name].shape == (32, 8, 1, 1)
    state[name] = state[name].transpose(0, 1)
    with pytest.raises(ValueError, match=rf"'{name}', has shape \(8, 32, 1, 1\), not \(32, 8, 1, 1\)"):
        load_pretrained(model, state)


def test_the_report_of_a_load_sums_up_by_part() -> None:
    loaded = Loaded(["backbone.a", "backbone.b"], ["classifier.0.w", "classifier.1.w", "aux_classifier.w"], ["fc.w"])
    assert str(loaded) == (
        "2 tensors loaded; 3 left as initialised (aux_classifier, classifier); 1 of the checkpoint not used (fc)"
    )
    assert str(Loaded(["backbone.a"], [], [])) == "1 tensors loaded"


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_fcn_starts_without_a_preference_and_leaves_that_state_in_two_steps(name: str) -> None:
    model: Any = configure(name, NARROW).build(3).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    images, targets = torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    assert model(images).logits.abs().max() == 0
    start = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for _ in range(2):
        optimiser.zero_grad()
        F.cross_entropy(upsample(model(images).logits, (64, 64), stride=model.output_stride), targets).backward()
        optimiser.step()
    still = [key for key, tensor in model.state_dict().items() if torch.equal(tensor, start[key])]
    assert still == []


@pytest.mark.parametrize("name", ["deeplabv3_resnet18", "deeplabv3_resnet50"])
def test_deeplab_says_why_it_cannot_train_on_a_batch_of_one(name: str) -> None:
    model = narrow(name).train()
    with pytest.raises(ValueError, match="needs at least 2 images per worker"):
        model(torch.randn(1, 3, 64, 64))
    assert model(torch.randn(2, 3, 64, 64)).logits.shape == (2, 5, 4, 4)
    assert model.eval()(torch.randn(1, 3, 64, 64)).logits.shape == (1, 5, 4, 4)


def test_the_auxiliary_head_scores_layer3_only_while_training() -> None:
    model = narrow("deeplabv3_resnet18", auxiliary_head=True, output_stride=8)
    (auxiliary,) = model.train()(torch.randn(2, 3, 64, 40)).auxiliary
    assert auxiliary.shape == (2, 5, 8, 5)
    assert model.eval()(torch.randn(2, 3, 64, 40)).auxiliary == ()


# --- configuration


def test_options_change_a_preset_and_keep_the_rest() -> None:
    config = configure("deeplabv3_resnet50", {"output_stride": 8})
    assert config == DeepLabV3Config(depth=50, output_stride=8)
    assert ARCHITECTURES["deeplabv3_resnet50"] == DeepLabV3Config(depth=50, output_stride=16)
    assert configure("fcn16s", {}) == ARCHITECTURES["fcn16s"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mask2former", {}, "unknown model 'mask2former'; there are .*fcn32s, .*deeplabv3_resnet50"),
        ("deeplabv3_resnet81", {}, r"unknown model 'deeplabv3_resnet81'; did you mean deeplabv3_resnet18\?"),
        ("fcn8s", {"output_stride": 8}, r"model 'fcn8s' has no option 'output_stride'; did you mean stride\?"),
        ("unet", {"widht": 0.5}, r"model 'unet' has no option 'widht'; did you mean width\?"),
        ("fcn8s", {"stride": 4}, "option 'stride': Input should be 32, 16 or 8"),
        ("deeplabv3_resnet18", {"output_stride": 32}, "option 'output_stride': Input should be 8 or 16"),
        ("deeplabv3_resnet18", {"depth": 19}, "option 'depth'"),
        ("deeplabv3_resnet18", {"width": "wide"}, "option 'width'"),
        ("deeplabv3_resnet18", {"width": 0}, "option 'width'"),
        ("fcn8s", {"width": -1.0}, "option 'width'"),
        ("fcn8s", {"width": float("inf")}, "option 'width'"),
    ],
)
def test_what_an_architecture_does_not_take_is_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        configure(name, options)
    assert "\n" not in str(caught.value)
