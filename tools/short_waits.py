"""Lets PyTorch's threads wait for each other briefly before they sleep; imported before PyTorch.

GNU OpenMP's threads otherwise spin for milliseconds, which costs a training beside another busy
process half its speed (docs/speed.md). What the user has set stays.
"""

import os

if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "1000"
