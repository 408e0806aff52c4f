"""Turns probability maps into polygons in pixels of the image file.

Files in reading order:

config    the section `postprocess` of the configuration
levels    quantises probabilities to one byte per map pixel
regions   finds the connected regions of a map, with their areas and scores
unclip    undoes the shrinking of the targets
outlines  turns regions into polygons, for curved text
boxes     turns regions into quads or polygons, and moves them to the image
pool      runs post-processing in threads, in parallel with the forward pass
"""
