"""`python -m jobs.search`: find good settings of a model by successive halving."""
