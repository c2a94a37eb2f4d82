"""The command with which people review the labels of pictures."""
