"""Named bytes on a disk or in a bucket, and what is built on creating one at a time: records, leases and locks."""
