"""Models for other tools: ONNX files, and bundles on the Hugging Face Hub."""
