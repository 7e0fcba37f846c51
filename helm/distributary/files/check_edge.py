# ruff: noqa: INP001 - runs by itself in a pod
"""What `helm test` runs: every edge is ready, and a WebSocket opens by way of the public Service."""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.request

from websockets.sync.client import connect

DEADLINE = time.monotonic() + float(os.environ.get("DEADLINE_S", "60"))


def check() -> str:
    """Ask each edge once. Raises OSError (which HTTP errors are) or ValueError where one is not ready."""
    host, port = os.environ["INTERNAL_HOST"], int(os.environ["INTERNAL_PORT"])
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = sorted({str(entry[4][0]) for entry in found})
    for address in addresses:
        literal = f"[{address}]" if ":" in address else address
        with urllib.request.urlopen(f"http://{literal}:{port}/health/ready", timeout=5) as answer:
            answer.read()
    url = f"ws://{os.environ['PUBLIC_HOST']}:{os.environ['PUBLIC_PORT']}/v1/ws"
    with connect(url, open_timeout=5, close_timeout=5, proxy=None):
        pass
    return f"{len(addresses)} edge(s) ready, a WebSocket opened at {url}"


while True:
    try:
        print(check())  # noqa: T201 - the log of the test pod
    except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again and then told
        if time.monotonic() > DEADLINE:
            sys.exit(f"The edges are not ready: {error}")
        time.sleep(1)
    else:
        break
