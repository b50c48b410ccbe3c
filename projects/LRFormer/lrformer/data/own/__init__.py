"""Own datasets: what a yaml and the files that it names become, see docs/own_data.md."""

from .config import data_opts, register_data, with_data
from .dataset import find, register
from .spec import load_spec

__all__ = ["data_opts", "find", "load_spec", "register", "register_data", "with_data"]
