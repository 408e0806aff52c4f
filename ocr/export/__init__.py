"""Exports a trained network: ONNX, torch.export, and a model repository for NVIDIA's Triton inference server."""
