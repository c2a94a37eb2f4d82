"""Convert picture files to images for a model: read the files, find the ink, and centre the digit."""
