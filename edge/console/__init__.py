"""The live page and its files, as the edge serves them with `--console`. No build step, nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

import msgspec

CONTENT_SECURITY_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
INDEX = "index.html"

_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class StaticFile(msgspec.Struct, frozen=True):
    """One file of the page."""

    name: str
    """Its path under the page's own, such as `client.js`; the page itself is INDEX, and is served at `/` too."""
    content_type: str
    body: bytes


def static_files() -> dict[str, StaticFile]:
    """Every file of the page by name, read now. Only these are served: a request can name no other path."""
    found = {}
    for entry in files(__package__).iterdir():
        content_type = _CONTENT_TYPES.get(entry.name[entry.name.rfind(".") :])
        if content_type is not None and entry.is_file():
            found[entry.name] = StaticFile(entry.name, content_type, entry.read_bytes())
    return found
