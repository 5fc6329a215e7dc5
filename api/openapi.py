"""OpenAPI 3.1, made from the types."""


def description() -> bytes:
    """The document, as JSON."""
    return b"{}"
