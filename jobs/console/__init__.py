"""What all commands share: options and their types, exit codes, output, signals and the terminal.

The modules that parse options import neither Ray nor TensorFlow nor Rich: a wrong option is refused at once.
"""
