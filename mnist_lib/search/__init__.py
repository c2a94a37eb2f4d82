"""Search for good settings of a model: the space, the configurations drawn from it, and which of them go on."""
