"""Shows a data set as the network gets it, in one HTML file: uv run scripts/inspect_data.py data=... dataset_base_path=FOLDER"""

from ocr.commands.inspect_data import run

if __name__ == "__main__":
    run()
