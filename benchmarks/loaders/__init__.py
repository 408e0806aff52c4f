"""The loaders of this project and of others on the same files, side by side: what `scripts/compare_loaders.py` measures."""
