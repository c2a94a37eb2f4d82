"""Find the files of a dataset and their labels: in folders, in a table, in a bucket. No picture is read here."""
