"""What all commands share: options and their types, exit codes, output, signals and the terminal.

The modules that parse options import neither Ray, TensorFlow nor Rich, so that an invalid option is reported at once.
"""
