"""Draws ground-truth maps from polygons, on the device.

Files in reading order:

config       the section `targets` of the configuration
target_maps  the four maps of a batch
outline      measures polygons before they are drawn
maps         draws the maps of a batch: definition, and choice between the two fast ways
numba_maps   the way on the CPU, in compiled code
packing      the polygons of a batch in the one array that the kernel reads
triton_maps  the way on a GPU, in one kernel
offline      maps on disk, one file per image
reference    slow and exact maps, for the tests
agreement    compares two sets of maps, and draws random polygons for the comparison
"""
