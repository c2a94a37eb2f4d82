"""What a run achieved: statistics over its trials, summary, text tables, the pages of report and index, TensorBoard."""
