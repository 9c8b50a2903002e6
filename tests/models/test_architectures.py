"""Properties of every architecture: sizes, gradients, precision, export.

The networks are narrow, because the properties do not depend on the width. Where two computations must agree, they run
in float64: random networks amplify rounding errors, and a switch of max-pooling can flip where two values nearly tie.
Float64 leaves errors of about 1e-14 of the scores' spread on any processor, so 1e-9 separates them from real errors.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import ARCHITECTURES, configure, count_parameters
from pipeline.models.layers import BatchTooSmallError
from tests.support.networks import liven, narrow, settle

# Presets whose layers another one has: the ensemble contains DeconvNet, for example.
LEFT_OUT = {
    *("sliding_window_vgg16", "fcn16s", "deeplabv1_7x7", "deeplabv1_4x4", "deconvnet", "frrn_b"),
    *("deeplabv3_resnet101", "deeplabv3_wide_resnet50", "pspnet_resnet101"),
}
# The presets, and options that no preset has.
VARIANTS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in ARCHITECTURES if name not in LEFT_OUT] + [
    ("fcn32s", {"geometry": "paper"}),
    ("fcn8s", {"geometry": "paper", "at_once": True}),
    ("deeplabv1_4x4", {"head": "4x4_rate8"}),
    ("deeplabv2_vgg16", {"aspp": "S", "multi_scale": True}),
    ("deeplabv3_resnet50", {"multi_grid": True, "auxiliary_head": True, "output_stride": 8}),
    ("sliding_window_alexnet", {"dense": True}),
]
IDS = ["-".join([name, *map(str, options)]) for name, options in VARIANTS]
every = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)

# Trainable parameters; comments give the numbers in the papers or in their code.
COUNTS: list[tuple[str, dict[str, Any], int, int]] = [
    ("fcn32s", {}, 21, 134_346_581),  # 136.15 M with full interpolation kernels: 21 · 21 · 64 · 64 more
    ("fcn16s", {}, 21, 134_357_690),  # 134.82 M: 21 · 21 · (4 · 4 + 32 · 32) more, less our learned 21 · 4 · 4
    ("fcn8s", {}, 21, 134_363_423),  # 134.49 M
    ("deeplabv1_7x7", {}, 21, 134_346_581),  # 134.3 M
    ("deeplabv1_4x4", {}, 21, 65_140_565),  # 65.1 M
    ("deeplabv1_largefov", {}, 21, 20_505_429),  # 20.505 M
    ("deeplabv1_msc_largefov", {}, 21, 21_711_445),  # 21.7 M
    ("deeplabv2_vgg16", {}, 21, 37_877_652),  # 37.88 M
    ("deeplabv2_resnet101", {}, 21, 44_048_532),  # 44.05 M
    ("deeplabv3_resnet50", {}, 21, 39_638_869),
    ("deeplabv3_resnet50", {"auxiliary_head": True}, 21, 42_004_074),
    ("deconvnet", {}, 21, 251_805_653),  # 251.8 M
    ("segnet", {}, 21, 29_455_125),  # 29.46 M
    ("segnet", {}, 11, 29_449_355),  # 29.45 M
    ("segnet_basic", {}, 11, 1_416_587),  # 1.425 M in the paper's table
    ("unet_valid", {}, 2, 31_030_658 + 2 * 9 * 64),  # 31.03 M with one input channel
    ("fusionnet", {}, 2, 78_516_674),  # 78.5 M
    ("deep_contextual", {}, 2, 7_933_258 + 2 * 9 * 64),  # 7.93 M with one input channel
    ("frrn_a", {}, 19, 17_746_803),  # 17.75 M
    ("frrn_b", {}, 19, 24_755_699),  # 24.76 M
    ("pspnet_resnet50", {}, 21, 49_081_578),  # 49.08 M
    ("pspnet_resnet50", {"auxiliary_head": False}, 21, 46_716_373),  # 46.716 M
    ("pspnet_resnet50", {"deep_stem": False}, 21, 48_957_802),  # 48.96 M
    ("pspnet_resnet50", {"deep_stem": False, "auxiliary_head": False}, 21, 46_592_597),  # 46.59 M
]


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def random_images(name: str, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return random images of a size that the network does not pad with switches.

    DeconvNet pads smaller images by replicating the border. In the padding, windows of max-pooling hold equal values,
    so rounding alone decides their switches.
    """
    size = (224, 224) if name.startswith("deconvnet") else (64, 72)
    return torch.randn(count, 3, *size, dtype=dtype)


@pytest.mark.parametrize(("name", "options", "classes", "expected"), COUNTS)
def test_parameters(name: str, options: dict, classes: int, expected: int) -> None:
    with torch.device("meta"):
        assert count_parameters(configure(name, options).build(classes)) == expected


def test_parameters_of_wide_resnets() -> None:
    with torch.device("meta"):
        sizes = [{"depth": d, "widen": k} for d, k in ((28, 10), (40, 4), (16, 8))]
        found = [count_parameters(configure("wrn_28_10", size).build(10)) for size in sizes]
        assert count_parameters(configure("resnet110", {}).build(10)) == 1_730_522
    assert found == [36_479_194, 8_949_210, 10_961_370]  # 36.48, 8.95, 10.96 M


@every
def test_maps_begin_at_the_first_pixel_and_cover_the_image(name: str, options: dict) -> None:
    model = narrow(name, **options).eval()
    stride = model.output_stride
    for size in ((1, 1), (2, 31), (33, 2), (97, 33)):
        with torch.inference_mode():
            output = model(torch.randn(1, 3, *size))
        assert output.logits.shape == (1, 5, -(-size[0] // stride), -(-size[1] // stride))
        assert output.logits.isfinite().all()
        assert output.auxiliary == ()


@every
def test_gradients_reach_every_parameter(name: str, options: dict) -> None:
    model = narrow(name, **options).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.1  # the usual 0.5 could drop all of eight channels
    output = model(torch.randn(2, 3, 72, 56))
    for logits in output.auxiliary:
        assert logits.shape == output.logits.shape
    torch.stack(
        [(logits * torch.randn_like(logits)).sum() for logits in (output.logits, *output.auxiliary)]
    ).sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().max() > 0, key
        else:
            assert "upscore" in key  # the fixed interpolations of the paper's geometry
            assert parameter.grad is None, key


@every
def test_a_batch_of_one_trains_or_is_refused_with_a_reason(name: str, options: dict) -> None:
    """An architecture that refuses crops of a usual size announces it in its configuration."""
    model = narrow(name, **options).train()
    announced = configure(name, options).min_training_batch == 2
    for size in ((64, 64), (1, 1)):
        try:
            logits = model(torch.randn(1, 3, *size)).logits
        except BatchTooSmallError:
            assert announced or size == (1, 1)
        else:
            assert logits.isfinite().all()
            assert not announced


@every
def test_memory_formats_agree(name: str, options: dict) -> None:
    images = random_images(name, 2)
    model = liven(narrow(name, **options)).double()
    with torch.inference_mode():
        expected = model(images).logits
        found = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last)).logits
    spread = (expected - expected.mean()).norm()
    assert spread > 0
    assert (found - expected).norm() < 1e-9 * spread


@every
def test_low_precision_gives_similar_scores(name: str, options: dict) -> None:
    images = random_images(name, 2, torch.float32)
    model = liven(narrow(name, **options))
    with torch.inference_mode():
        exact = model(images).logits
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images).logits
    # The softmax of the ensemble is computed in float32.
    assert rough.dtype == torch.bfloat16 or name.startswith("deconvnet_fcn8s")
    # bfloat16 has 8 significant bits, and networks that unpool follow the switches that it flips. Errors of up to 0.3
    # of the spread were seen with SegNet and of up to 0.15 with the others; unrelated scores would differ by 1.4.
    assert (rough.float() - exact).norm() < 0.6 * (exact - exact.mean()).norm()


@every
def test_images_of_a_batch_are_independent(name: str, options: dict) -> None:
    images = random_images(name, 2)
    model = settle(narrow(name, **options).double(), images)
    with torch.inference_mode():
        together = model(images).logits
        alone = torch.cat([model(image[None]).logits for image in images])
    assert together.std() > 1e-4
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9 * float(together.std()))


@pytest.mark.parametrize(
    "name",
    [
        *("sliding_window_alexnet", "deeplabv1_msc_largefov", "deeplabv2_vgg16", "deeplabv3_resnet18"),
        *("deconvnet_fcn8s", "segnet", "unet", "unet_valid", "fusionnet", "deep_contextual", "frrn_a"),
        "pspnet_resnet50",
    ],
)
def test_it_can_be_exported(name: str) -> None:
    images = random_images(name, 2)
    model = liven(narrow(name)).double()
    program = torch.export.export(model, (images,), strict=False)
    with torch.inference_mode():
        expected, found = model(images).logits, program.module()(images).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.std()))
