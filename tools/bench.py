#!/usr/bin/env python3
"""Counts, times and compares models; ``--help`` shows how."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # The folder bench/, which is not installed, comes before this file of the same name.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from bench.main import main

    sys.exit(main())
