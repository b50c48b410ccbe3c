"""Counts, times and compares models; not installed with the package. ``tools/bench.py`` runs it."""
