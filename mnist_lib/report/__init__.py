"""What a run achieved: its summary, text tables, the report and the index as pages, and TensorBoard's event files."""
