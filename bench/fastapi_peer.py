"""The least that a FastAPI WebSocket endpoint can do: accept, read one subscribe, answer it. What bench_connect.py compares with.

usage: python -m bench.fastapi_peer PORT
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()


@app.websocket("/v1/ws")
async def serve(client: WebSocket) -> None:
    """Serve one client until it is gone."""
    await client.accept()
    try:
        command = await client.receive_json()
        answer = {"type": "subscribed", "id": command["id"], "channel": command["channel"], "number": 1, "kind": "latest", "data": "x" * 18}
        await client.send_json(answer)
        while True:
            await client.receive_text()
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), ws="websockets-sansio", http="httptools", log_level="error", backlog=4096)
