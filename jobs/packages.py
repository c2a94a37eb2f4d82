"""Where this project's packages lie: what is sent to workers, and hashed as the code that a model was made with."""

from pathlib import Path

import cluster
import jobs
import mnist_lib

PACKAGES = [Path(str(package.__file__)).parent for package in (jobs, mnist_lib, cluster)]
