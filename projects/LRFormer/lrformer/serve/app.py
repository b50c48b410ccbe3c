"""The HTTP interface: ``POST /predict``, ``GET /models``, the page, and ``/docs``."""

import asyncio
import base64
import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse
from PIL import Image

from lrformer import __version__
from lrformer.data import DatasetError
from lrformer.data.reading import read_image
from lrformer.inference import Predictor
from lrformer.visualization.classes import class_color, class_name

from . import Limits
from .batching import Batcher, Prediction

PAGE = Path(__file__).with_name("page.html")
# Not all of Pillow's: some start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def create_app(
    predictors: Mapping[str, Predictor], limits: Limits | None = None, batch_size: int = 1
) -> FastAPI:
    """The application, to be run by an ASGI server.

    Args:
        predictors: by the models' names; the first is the default.
        limits: see there.
        batch_size: how many images of the same size go through a model at once.
    """
    limits = limits or Limits()
    batchers = {name: Batcher(predictor, batch_size) for name, predictor in predictors.items()}
    app = FastAPI(title="LRFormer", version=__version__)
    running = 0

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.get("/models")
    def models() -> dict[str, Any]:
        """The models' names, the default first, and what the server takes."""
        return {"models": list(batchers), "limits": asdict(limits)}

    @app.post(
        "/predict",
        response_class=Response,
        responses={
            200: {"content": {"image/png": {}, "application/json": {}}},
            **{code: {"description": text} for code, text in _ERRORS.items()},
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def predict(
        request: Request, model: str | None = None, output: Literal["png", "json"] = "png"
    ) -> Response:
        """Segment the image that is the request's body.

        `png`: class indices, 8 bits (16 above 256 classes), at the image's size. `json`: `width`,
        `height`, the `classes` in the image (`id`, `name`, `color`, `fraction`), and as PNG in
        base64 `labels` and `confidence`, the probability of each pixel's class times 255.
        """
        nonlocal running
        if model is not None and model not in batchers:
            raise HTTPException(404, f"no model {model!r}; there are {', '.join(batchers)}")
        if running >= limits.requests:
            text = f"{limits.requests} requests are in work already; try again later"
            raise HTTPException(429, text, {"Retry-After": "1"})
        batcher = batchers[model or next(iter(batchers))]
        running += 1
        try:
            return await asyncio.wait_for(_answer(request, batcher, output, limits), limits.seconds)
        except asyncio.TimeoutError as error:
            raise HTTPException(504, f"not done within {limits.seconds:g} seconds") from error
        finally:
            running -= 1

    return app


_ERRORS = {
    400: "no image, a damaged one, or one that the model cannot take",
    404: "no such model",
    413: "a file of too many bytes, or an image of too many pixels",
    429: "too many requests at a time",
    504: "not done in time",
}


async def _answer(request: Request, batcher: Batcher, output: str, limits: Limits) -> Response:
    data = await _body(request, limits.bytes)
    image = await run_in_threadpool(_decode, data, limits.pixels)
    prediction = await asyncio.wrap_future(batcher.submit(image))
    if output == "png":
        return Response(await run_in_threadpool(_png, prediction[0]), media_type="image/png")
    return JSONResponse(await run_in_threadpool(_json, prediction, batcher.predictor.metadata))


async def _body(request: Request, limit: int) -> bytes:
    error = HTTPException(413, f"the file has more than {limit} bytes", {"Connection": "close"})
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit:
        raise error
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise error
    return bytes(data)


def _decode(data: bytes, max_pixels: int) -> np.ndarray:
    try:
        width, height = Image.open(io.BytesIO(data), formats=_FORMATS).size
    except Image.DecompressionBombError as error:
        raise HTTPException(413, f"more than {max_pixels} pixels") from error
    except Exception as error:  # of many kinds: whatever the bytes are, they are no image
        known = ", ".join(_FORMATS)
        raise HTTPException(400, f"the request's body is no image of {known}") from error
    if width * height > max_pixels:
        text = f"the image has {width}x{height} pixels, more than {max_pixels}: make it smaller"
        raise HTTPException(413, text)
    try:
        return read_image(io.BytesIO(data))
    except DatasetError as error:
        raise HTTPException(400, f"the image cannot be decoded: {error.__cause__}") from error


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def _json(prediction: Prediction, metadata: Any) -> dict[str, Any]:
    labels, confidence = prediction
    found, counts = np.unique(labels, return_counts=True)
    classes = [
        {
            "id": label,
            "name": class_name(metadata, label),
            "color": class_color(metadata, label),
            "fraction": count / labels.size,
        }
        for label, count in zip(found.tolist(), counts.tolist(), strict=True)
    ]
    pictures = {
        name: base64.b64encode(_png(pixels)).decode("ascii")
        for name, pixels in (("labels", labels), ("confidence", confidence))
    }
    return {"width": labels.shape[1], "height": labels.shape[0], "classes": classes, **pictures}
