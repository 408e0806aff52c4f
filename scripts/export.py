"""Exports a trained network: uv run scripts/export.py checkpoint=FILE format=onnx output=FILE"""

from ocr.commands.export import run

if __name__ == "__main__":
    run()
