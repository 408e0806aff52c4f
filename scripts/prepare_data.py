"""Checks a data set and writes it ready for training: uv run scripts/prepare_data.py data=... output=FOLDER"""

from ocr.commands.prepare_data import run

if __name__ == "__main__":
    run()
