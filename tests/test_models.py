"""Architectures against torchvision's, their papers' formulas and each other; narrow wherever weights do not matter."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models import ARCHITECTURES, configure, count_parameters
from pipeline.models.deeplabv3 import DeepLabV3
from pipeline.models.fcn import FCN
from pipeline.models.layers import crop_to, scaled
from pipeline.models.pretrained import Loaded, load_pretrained
from pipeline.models.resnet import BLOCKS, ResNet
from pipeline.models.upsampling import bilinear_deconvolution, bilinear_kernel, upsample
from pipeline.models.vgg import VGG16

NARROW = {"width": 0.125}
SCORE_LAYERS = ("score", "score_pool4", "score_pool3")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def narrow(name: str, num_classes: int = 5, **options: object) -> nn.Module:
    """A slim network whose scores are not all zero: FCN's score layers start there."""
    model = configure(name, NARROW | options).build(num_classes)
    for layer in SCORE_LAYERS:
        if hasattr(model, layer):
            nn.init.normal_(getattr(model, layer).weight, std=0.1)
    return model


def liven(model: nn.Module) -> nn.Module:
    """Batch normalisation of unlike channels, so that a statistic that is mixed up shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def random_vgg16() -> nn.Module:
    """torchvision's VGG16 with random weights, without the seconds of its own initialisation."""
    with torch.device("meta"):
        model = torchvision.models.vgg16()
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
        nn.init.uniform_(parameter, -((6 / fan_in) ** 0.5), (6 / fan_in) ** 0.5)
    return model.eval()


def torchvision_resnet_layers(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    layer3 = model.layer3(model.layer2(model.layer1(x)))
    return layer3, model.layer4(layer3)


# --- sizes


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("fcn32s", {}, 134_346_581),
        ("fcn16s", {}, 134_357_690),
        ("fcn8s", {}, 134_363_423),
        ("deeplabv3_resnet50", {}, 39_638_869),
        ("deeplabv3_resnet50", {"auxiliary_head": True}, 42_004_074),
    ],
)
def test_parameters_at_21_classes(name: str, options: dict, expected: int) -> None:
    with torch.device("meta"):
        assert count_parameters(configure(name, options).build(21)) == expected


@pytest.mark.parametrize("size", [(1, 1), (1, 33), (2, 31), (31, 32), (33, 2), (32, 97), (97, 1), (97, 33)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_score_map_has_the_size_of_the_image_over_the_stride_rounded_up(name: str, size: tuple[int, int]) -> None:
    model = narrow(name).eval()
    with torch.inference_mode():
        output = model(torch.randn(1, 3, *size))
    stride = model.output_stride
    assert output.logits.shape == (1, 5, -(-size[0] // stride), -(-size[1] // stride))
    assert output.logits.isfinite().all()
    assert output.auxiliary == ()


@pytest.mark.parametrize(("output_stride", "size"), [(8, (9, 5)), (16, (5, 3)), (32, (3, 2))])
@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_features_have_the_chosen_stride(depth: int, output_stride: int, size: tuple[int, int]) -> None:
    features = ResNet(depth=depth, output_stride=output_stride, width=0.125).eval()(torch.randn(1, 3, 70, 40))
    assert features.layer4.shape[-2:] == size
    assert features.layer3.shape[-2:] == ((9, 5) if output_stride == 8 else (5, 3))


@pytest.mark.parametrize("output_stride", [8, 16])
def test_deeplab_covers_the_same_image_at_either_stride(output_stride: int) -> None:
    """The rates double when the stride halves: an unshifted view of the same receptive field."""
    model = narrow("deeplabv3_resnet18", output_stride=output_stride)
    rates = [branch[0].dilation[0] for branch in model.classifier[0].convs[1:4]]
    assert [rate * output_stride for rate in rates] == [96, 192, 288]
    assert [branch[0].padding[0] for branch in model.classifier[0].convs[1:4]] == rates


def test_width_scales_channels_in_multiples_of_8() -> None:
    assert [scaled(64, 1.0), scaled(100, 1.0)] == [64, 100]
    assert [scaled(64, 0.5), scaled(64, 0.125), scaled(64, 0.01), scaled(512, 0.3)] == [32, 8, 8, 152]


# --- against torchvision


def test_deeplabv3_resnet50_is_torchvisions() -> None:
    theirs = liven(
        torchvision.models.segmentation.deeplabv3_resnet50(
            weights=None, weights_backbone=None, aux_loss=True, num_classes=21
        )
    )
    ours = DeepLabV3(num_classes=21, depth=50, output_stride=8, auxiliary_head=True).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 48)
    with torch.inference_mode():
        expected = theirs(images)
        logits = upsample(ours(images).logits, (64, 48), stride=8)
        auxiliary = upsample(ours.aux_classifier(ours.backbone(images).layer3), (64, 48), stride=8)
    assert expected["out"].std() > 0.01
    torch.testing.assert_close(logits, expected["out"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(auxiliary, expected["aux"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_features_are_torchvisions(depth: int) -> None:
    theirs = liven(getattr(torchvision.models, f"resnet{depth}")())
    ours = ResNet(depth=depth).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}, strict=True)
    images = torch.randn(1, 3, 65, 47)
    with torch.inference_mode():
        for mine, expected in zip(ours(images), torchvision_resnet_layers(theirs, images), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", BLOCKS)
def test_every_resnet_has_torchvisions_tensors(depth: int) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")().state_dict()
        ours = ResNet(depth=depth).state_dict()
    expected = {name: tensor.shape for name, tensor in theirs.items() if not name.startswith("fc.")}
    assert {name: tensor.shape for name, tensor in ours.items()} == expected


def test_vgg16_checkpoint_becomes_fcn() -> None:
    theirs = random_vgg16()
    with torch.device("meta"):
        ours = FCN(num_classes=3, stride=32)
    ours = ours.to_empty(device="cpu").eval()

    report = load_pretrained(ours, theirs.state_dict())

    assert sorted(report.fresh) == ["score.bias", "score.weight"]
    assert sorted(report.unused) == ["classifier.6.bias", "classifier.6.weight"]
    assert len(report.loaded) == 30
    images, pool5 = torch.randn(1, 3, 64, 96), torch.rand(1, 512, 7, 7)
    with torch.inference_mode():
        torch.testing.assert_close(ours.backbone(images).pool5, theirs.features(images))
        # fc6 sees the whole window only in its middle; the rest is padding.
        hidden = F.relu(ours.fc7(F.relu(ours.fc6(pool5))))[:, :, 3, 3]
        expected = theirs.classifier[:5](pool5.flatten(1))
    assert expected.std() > 0.01
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-4)


def test_vgg16_maps_follow_pool3_pool4_and_pool5() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.vgg16().features
    theirs, ours = theirs.to_empty(device="cpu"), VGG16().eval()
    theirs.load_state_dict(ours.features.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 32)
    with torch.inference_mode():
        for mine, end in zip(ours(images), (17, 24, 31), strict=True):
            torch.testing.assert_close(mine, theirs[:end](images))


# --- published weights


def test_resnet18_checkpoint_fills_the_backbone() -> None:
    theirs = liven(torchvision.models.resnet18())
    model = DeepLabV3(num_classes=4, depth=18, output_stride=16).eval()
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


def test_a_checkpoint_without_batch_counters_is_as_good() -> None:
    """Files from before PyTorch 0.4.1 have no `num_batches_tracked`, and torch itself takes them."""
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
    """As many numbers in another order are another layer."""
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


# --- training


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_reach_every_parameter(name: str) -> None:
    options = {"auxiliary_head": True} if name.startswith("deeplab") else {}
    model = narrow(name, **options).train()
    output = model(torch.randn(4, 3, 64, 64))
    assert len(output.auxiliary) == len(options)
    sum((logits * torch.randn_like(logits)).sum() for logits in (output.logits, *output.auxiliary)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_fcn_starts_without_a_preference_and_leaves_that_state_in_two_steps(name: str) -> None:
    model = configure(name, NARROW).build(3).train()
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


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_images_of_a_batch_do_not_see_each_other(name: str) -> None:
    model = liven(narrow(name))
    images = torch.randn(3, 3, 40, 56)
    with torch.inference_mode():
        together = model(images).logits
        alone = torch.cat([model(image[None]).logits for image in images])
    assert together.std() > 1e-4
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bfloat16_comes_close_to_float32(name: str) -> None:
    model = liven(narrow(name))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        exact = model(images).logits
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images).logits
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.05 * (exact - exact.mean()).norm()


# --- interpolation


def ramp(height: int, width: int) -> Tensor:
    """Two channels: row and column numbers."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns])[None].float()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_bilinear_deconvolution_interpolates_in_the_interior(factor: int) -> None:
    maps = torch.randn(2, 3, 6, 5)
    with torch.inference_mode():
        ours = bilinear_deconvolution(3, factor)(maps)
    expected = F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    assert ours.shape == expected.shape == (2, 3, 6 * factor, 5 * factor)
    interior = slice(factor // 2, -(factor // 2))
    torch.testing.assert_close(ours[..., interior, interior], expected[..., interior, interior])


def test_bilinear_kernel_of_factor_2() -> None:
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(bilinear_kernel(2), torch.outer(line, line))


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_upsample_puts_each_score_on_the_middle_of_its_pixels(stride: int) -> None:
    size = (3 * stride - 1, 4 * stride - stride // 2)
    rows, columns = upsample(ramp(3, 4), size, stride=stride)[0]
    assert rows.shape == size
    where = (torch.arange(size[0]) + 0.5) / stride - 0.5
    torch.testing.assert_close(rows[:, 0], where.clamp(0, 2))
    where = (torch.arange(size[1]) + 0.5) / stride - 0.5
    torch.testing.assert_close(columns[0], where.clamp(0, 3))


@pytest.mark.parametrize("size", [(33, 47), (48, 33), (34, 48), (48, 48)])
def test_upsample_crops_and_never_stretches(size: tuple[int, int]) -> None:
    logits = torch.randn(2, 5, 3, 3)
    whole = F.interpolate(logits, size=(48, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(logits, size, stride=16), whole[..., : size[0], : size[1]])


def test_upsample_by_one_only_crops() -> None:
    logits = torch.randn(1, 2, 5, 6).bfloat16()
    cropped = upsample(logits, (4, 6), stride=1)
    assert cropped.dtype == torch.bfloat16
    assert torch.equal(cropped, logits[:, :, :4])


def test_crop_to_keeps_the_upper_left_corner() -> None:
    assert torch.equal(crop_to(ramp(4, 5), (2, 3)), ramp(2, 3))


def test_fcn_16s_starts_as_fcn_32s_interpolated() -> None:
    """Zero skips and a bilinear first upsampling (section 4.3 of the paper)."""
    coarse = configure("fcn32s", NARROW).build(4).eval()
    nn.init.normal_(coarse.score.weight)
    fine = configure("fcn16s", NARROW).build(4).eval()
    missing = fine.load_state_dict(coarse.state_dict(), strict=False).missing_keys
    assert sorted(missing) == ["score_pool4.bias", "score_pool4.weight", "upscore_pool5.weight"]
    images = torch.randn(1, 3, 128, 160)
    with torch.inference_mode():
        expected = upsample(coarse(images).logits, (8, 10), stride=2)
        found = fine(images).logits
    assert expected.std() > 0.01
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-5)


# --- configuration


def test_options_change_a_preset_and_keep_the_rest() -> None:
    config = configure("deeplabv3_resnet50", {"output_stride": 8})
    assert config.model_dump() == {"depth": 50, "output_stride": 8, "width": 1.0, "auxiliary_head": False}
    assert ARCHITECTURES["deeplabv3_resnet50"].output_stride == 16
    assert configure("fcn16s", {}) == ARCHITECTURES["fcn16s"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", {}, "unknown model 'unet'; there are fcn32s, .*deeplabv3_resnet50"),
        ("fcn8s", {"output_stride": 8}, r"model 'fcn8s', option 'output_stride': .*\(options: stride, width\)"),
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
