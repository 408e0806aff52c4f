"""A look at a data set before it is trained on: scripts/inspect_data.py.

inspect_data   the whole: splits -> findings -> pictures -> page
histograms     what is counted
strange        which images are hardest and strangest, and why
near_duplicates, letters
page           the HTML file, from the parts in ocr/report/html.py
"""
