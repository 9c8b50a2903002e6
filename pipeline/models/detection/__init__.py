"""The list of detectors. A new one needs a file with its network and configuration, and a line here."""

from pipeline.models.detection.detector import DetectorConfig
from pipeline.models.detection.fast_rcnn import FastRCNNConfig
from pipeline.models.detection.from_torchvision import TorchvisionConfig
from pipeline.models.detection.rcnn import RCNNConfig
from pipeline.models.detection.sppnet import SPPNetConfig
from pipeline.models.detection.yolo import YOLOConfig

DETECTORS: dict[str, DetectorConfig] = {
    "rcnn_alexnet": RCNNConfig(backbone="alexnet", crop=227),
    "rcnn_vgg16": RCNNConfig(backbone="vgg16", crop=224),
    "rcnn_resnet50": RCNNConfig(backbone="resnet", depth=50, crop=224),
    "sppnet_alexnet": SPPNetConfig(backbone="alexnet"),
    "sppnet_vgg16": SPPNetConfig(backbone="vgg16"),
    "sppnet_resnet18": SPPNetConfig(backbone="resnet", depth=18),
    "fast_rcnn_alexnet": FastRCNNConfig(backbone="alexnet"),
    "fast_rcnn_vgg16": FastRCNNConfig(backbone="vgg16"),
    "fast_rcnn_resnet50": FastRCNNConfig(backbone="resnet", depth=50),
    "yolo": YOLOConfig(variant="full"),
    "yolo_fast": YOLOConfig(variant="fast"),
    "faster_rcnn": TorchvisionConfig(network="faster_rcnn"),
    "ssd": TorchvisionConfig(network="ssd"),
}
