"""The champion of each model and data set: the log of decisions, the rule and its budget, and comparisons."""
