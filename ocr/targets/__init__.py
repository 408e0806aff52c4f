"""Ground-truth maps from polygons, made on the device."""
