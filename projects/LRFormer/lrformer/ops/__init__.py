"""Fast paths: modules and functions that compute what plain ones do, where that is known to pay.

Each has its plain reference beside it or names it; :mod:`.route` is the one place that asks which
device, recording or hooks there are. What an engine does (``torch.compile``, an exported model's
runtime) is not done here.
"""

from .accelerate import accelerate, restore
from .exportable import exportable

__all__ = ["accelerate", "exportable", "restore"]
