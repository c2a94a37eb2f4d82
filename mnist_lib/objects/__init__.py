"""Named bytes on a disk or in a bucket, records, leases and locks on their atomic creation, and arrays in files."""
