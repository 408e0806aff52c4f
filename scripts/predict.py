"""Finds text in images: uv run scripts/predict.py checkpoint=FILE images=PATH output=DIR"""

from ocr.commands.predict import run

if __name__ == "__main__":
    run()
