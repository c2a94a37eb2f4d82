"""Named bytes on a disk or in a bucket, and what is built on their atomic creation: records, leases and locks."""
