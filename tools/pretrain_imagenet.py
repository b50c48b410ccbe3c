#!/usr/bin/env python3
"""Pre-train LRFormer's backbone on ImageNet; ``--help`` shows how."""

import sys

import short_waits  # noqa: F401  (before PyTorch)
from lrformer.pretrain.run import main

if __name__ == "__main__":
    sys.exit(main())
