"""Tasks on the cluster: what fits where, lanes of items with their attempts and deaths, single tasks."""
