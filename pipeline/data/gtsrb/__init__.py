"""German traffic signs, with masks made from the geometry of each sign."""
