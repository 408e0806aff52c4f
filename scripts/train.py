"""Trains a text detector: uv run scripts/train.py key=value ..."""

from ocr.commands.train import run

if __name__ == "__main__":
    run()
