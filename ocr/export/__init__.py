"""Exports a trained network: ONNX, torch.export, and a model repository for NVIDIA's Triton inference server.

Files in reading order:

run            the command: exports, checks, writes
graph          the network as ONNX with metadata, or as a program of torch.export
reduced        float16, and int8 with ranges measured on pictures
check          compares the exported network with PyTorch on pictures
triton         the model repository
triton_client  the example client in it
"""
