"""What is prepared of a dataset, in the folder `.prepared`: files of pixels, an index and a journal."""
