"""A look at a data set before it is trained on: scripts/inspect_data.py.

inspect_data   the whole: splits -> findings -> pictures -> page
histograms     what is counted, as data
strange        which images are hardest and strangest, and why
pictures       drawn with Pillow: images with polygons, samples with their target maps, sheets
near_duplicates, letters
page           the HTML file
"""
