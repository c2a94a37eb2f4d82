"""The command that lists, compares, verifies, promotes, exports and deletes stored versions."""
