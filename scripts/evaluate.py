"""Evaluates a checkpoint: uv run scripts/evaluate.py checkpoint=FILE split=val"""

from ocr.commands.evaluate import run

if __name__ == "__main__":
    run()
