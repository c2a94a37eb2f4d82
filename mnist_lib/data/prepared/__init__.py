"""What is prepared of a dataset, in the folder `.prepared`: a file of pixels and an index."""
