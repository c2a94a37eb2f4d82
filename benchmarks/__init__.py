"""Benchmarks of this project and its peers, run in turn on one machine. README.md is the record."""
