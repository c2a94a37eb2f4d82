"""Convert picture files to images for a model: read the files; scale them, or find the ink and centre the digit."""
