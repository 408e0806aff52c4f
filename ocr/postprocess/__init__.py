"""Turns probability maps into polygons in pixels of the image file.

Files in reading order:

config  the section `postprocess` of the configuration
levels  quantises probabilities to one byte per map pixel
unclip  undoes the shrinking of the targets
boxes   finds regions and turns them into quads or polygons
pool    runs post-processing in threads, in parallel with the forward pass
"""
