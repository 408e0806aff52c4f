"""Draws ground-truth maps from polygons, on the device."""
