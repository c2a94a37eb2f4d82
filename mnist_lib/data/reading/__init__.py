"""Read the pictures of a dataset into its file of pixels."""
