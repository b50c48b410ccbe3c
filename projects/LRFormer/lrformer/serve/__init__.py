"""A page and an HTTP interface that segment images, by FastAPI (the extra ``serve``)."""
