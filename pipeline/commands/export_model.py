"""Write a trained model for other tools: as an ONNX file, or as a repository of the Hugging Face Hub.

The ONNX file takes uint8 RGB images and gives labels and scores at their resolution. It is stored only if onnxruntime
gives PyTorch's label for at least 99.9% of the pixels of drawn images. docs/exchange.md lists what each architecture
allows.

Examples:
    segpipe export-model s3://models/roads --onnx roads.onnx
    segpipe export-model model --onnx model.onnx --size 512,1024
    segpipe export-model model --hub my-team/roads --private
"""

from pipeline import cli, storage
from pipeline.exchange.config import ExportModelConfig

CONFIG = ExportModelConfig


def main(argv: list[str]) -> None:
    """Export a model, and print what was written and compared."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    if config.onnx:
        from pipeline.exchange.to_onnx import export_onnx, format_checks

        print(format_checks(export_onnx(config.bundle, config.onnx, size=config.size)))
        print(f"ONNX file: {storage.redact(config.onnx)}")
    if config.folder:
        from pipeline.exchange.hub import write_folder

        write_folder(config.bundle, config.folder)
        print(f"folder: {storage.redact(config.folder)}")
    if config.hub:
        from pipeline.exchange.hub import push

        print(f"repository: {push(config.bundle, config.hub, private=config.private)}")
