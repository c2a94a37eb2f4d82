"""The command that checks what a run needs, on this machine and on every node of a cluster."""
