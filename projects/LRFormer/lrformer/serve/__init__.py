"""A page and an HTTP interface that segment images; ``app`` needs FastAPI (the extra ``serve``)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        bytes: of an uploaded file; a larger one is answered with 413.
        pixels: of an image, said by its header; likewise.
        requests: at a time; the next one is answered with 429.
        seconds: for a request, its upload and its waiting included; then it is answered with 504.
    """

    bytes: int = 20 * 2**20
    pixels: int = 4 * 2**20
    requests: int = 32
    seconds: float = 60
