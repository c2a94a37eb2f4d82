"""The champion of each model and dataset: the log of decisions, the rule and its budget, and comparisons."""
