"""Loaders of others, each tuned as its own documentation says: functions from `RivalFiles` to `RowLoader`.

In reading order: `worker_processes` (PyTorch's DataLoader, on which most stand), `image` (decoding and resizing one image), then
one module a rival. Optional packages are imported when a row is made (`optional`).
"""
