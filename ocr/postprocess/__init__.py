"""Turns probability maps into polygons in pixels of the image file."""
