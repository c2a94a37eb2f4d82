"""Where the pictures and labels of a dataset come from, before they are read: folders, tables, buckets, TFDS."""
