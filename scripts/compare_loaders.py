"""Measures loaders and recommends one: uv run scripts/compare_loaders.py key=value ..."""

from benchmarks.loaders.command import run

if __name__ == "__main__":
    run()
