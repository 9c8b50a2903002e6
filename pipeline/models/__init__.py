"""The lists of architectures. A new one needs a file with its network and configuration, and a line here."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from pipeline.models.cam_classifier import CAMConfig
from pipeline.models.config import ModelConfig, ModelTask, configured
from pipeline.models.deconvnet import DeconvNetConfig
from pipeline.models.deep_contextual import DeepContextualConfig
from pipeline.models.deeplabv1 import DeepLabV1Config
from pipeline.models.deeplabv2 import DeepLabV2Config
from pipeline.models.deeplabv3 import DeepLabV3Config
from pipeline.models.ensemble import EnsembleConfig
from pipeline.models.fcn import FCNConfig
from pipeline.models.frrn import FRRNConfig
from pipeline.models.fusionnet import FusionNetConfig
from pipeline.models.pspnet import PSPNetConfig
from pipeline.models.segnet import SegNetConfig
from pipeline.models.segnet_basic import SegNetBasicConfig
from pipeline.models.sliding_window import SlidingWindowConfig
from pipeline.models.unet import UNetConfig
from pipeline.models.weightless import weightless
from pipeline.models.wide_resnet import WideResNetConfig
from pipeline.models.yolo_classifier import YOLOClassifierConfig

ARCHITECTURES: dict[str, ModelConfig] = {
    "sliding_window_alexnet": SlidingWindowConfig(classifier="alexnet"),
    "sliding_window_vgg16": SlidingWindowConfig(classifier="vgg16"),
    "fcn32s": FCNConfig(stride=32),
    "fcn16s": FCNConfig(stride=16),
    "fcn8s": FCNConfig(stride=8),
    "deeplabv1_7x7": DeepLabV1Config(head="7x7"),
    "deeplabv1_4x4": DeepLabV1Config(head="4x4"),
    "deeplabv1_largefov": DeepLabV1Config(head="large_fov"),
    "deeplabv1_msc_largefov": DeepLabV1Config(head="large_fov", multi_scale=True),
    "deeplabv2_vgg16": DeepLabV2Config(backbone="vgg16"),
    "deeplabv2_resnet101": DeepLabV2Config(backbone="resnet101"),
    "deeplabv3_resnet18": DeepLabV3Config(depth=18),
    "deeplabv3_resnet50": DeepLabV3Config(depth=50),
    "deeplabv3_resnet101": DeepLabV3Config(depth=101),
    "deeplabv3_wide_resnet50": DeepLabV3Config(depth=50, widen=2),
    "deconvnet": DeconvNetConfig(),
    "deconvnet_fcn8s": EnsembleConfig(),
    "segnet": SegNetConfig(),
    "segnet_basic": SegNetBasicConfig(),
    "unet": UNetConfig(variant="same"),
    "unet_valid": UNetConfig(variant="valid"),
    "fusionnet": FusionNetConfig(),
    "deep_contextual": DeepContextualConfig(),
    "frrn_a": FRRNConfig(variant="A"),
    "frrn_b": FRRNConfig(variant="B"),
    "pspnet_resnet50": PSPNetConfig(depth=50),
    "pspnet_resnet101": PSPNetConfig(depth=101),
}

CLASSIFIERS: dict[str, ModelConfig] = {
    "alexnet_cam": CAMConfig(backbone="alexnet"),
    "vgg16_cam": CAMConfig(backbone="vgg16"),
    "googlenet_cam": CAMConfig(backbone="googlenet"),
    "resnet18_cam": CAMConfig(backbone="resnet", depth=18, added=0),
    "resnet50_cam": CAMConfig(backbone="resnet", depth=50, added=0),
    "resnet101_cam": CAMConfig(backbone="resnet", depth=101, added=0),
    "wide_resnet50_cam": CAMConfig(backbone="resnet", depth=50, widen=2, added=0),
    "wrn_16_4": WideResNetConfig(depth=16, widen=4),
    "wrn_28_10": WideResNetConfig(depth=28, widen=10),
    "wrn_40_4": WideResNetConfig(depth=40, widen=4),
    "resnet110": WideResNetConfig(depth=110, widen=1),
    "yolo_cam": YOLOClassifierConfig(variant="full"),
    "yolo_fast_cam": YOLOClassifierConfig(variant="fast"),
}


def all_models() -> dict[str, ModelConfig]:
    """Return `ARCHITECTURES`, `CLASSIFIERS` and `detection.DETECTORS`; the last ones import torchvision."""
    from pipeline.models.detection import DETECTORS

    return {**ARCHITECTURES, **CLASSIFIERS, **DETECTORS}


def models_of(task: ModelTask) -> Mapping[str, ModelConfig]:
    """Return the models that do a task; those for detection import torchvision."""
    if task == "detection":
        from pipeline.models.detection import DETECTORS

        return DETECTORS
    return ARCHITECTURES if task == "segmentation" else CLASSIFIERS


def configure(name: str, options: dict[str, Any]) -> ModelConfig:
    """Return the configuration of a segmentation network, a classifier or a detector.

    Args:
        name: Key of `all_models()`.
        options: Options that differ from those of the listed configuration.

    Raises:
        ValueError: The name or an option is unknown, or the architecture does not allow a value.
    """
    presets = ARCHITECTURES | CLASSIFIERS
    return configured(presets if name in presets else all_models(), name, options)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def score_layers(config: ModelConfig, num_classes: int) -> set[str]:
    """Return the names of the parameters whose shape depends on the number of classes."""
    with weightless():
        one, other = (dict(config.build(n).named_parameters()) for n in (num_classes, num_classes + 1))
    return {name for name, parameter in one.items() if parameter.shape != other[name].shape}
