"""Stored versions outside of training: loaded to predict, trained again to compare, exported to other formats."""
