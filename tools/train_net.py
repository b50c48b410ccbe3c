#!/usr/bin/env python3
"""Train or evaluate LRFormer; ``--help`` shows how."""

import sys

import short_waits  # noqa: F401  (before PyTorch)
from lrformer.engine.run import main

if __name__ == "__main__":
    sys.exit(main())
