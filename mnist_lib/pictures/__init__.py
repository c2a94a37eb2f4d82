"""Files of pictures to images as a model takes them: reading the files, finding the ink, and centring the digit."""
