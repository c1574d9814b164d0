"""The part of Qdrant's REST interface that a funnel uses, over what the client keeps in memory."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from qdrant_client import QdrantClient, models


class Server:
    """What is at ``url``: the collections of a client in memory, and the requests that came."""

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.requests: list[tuple[str, str, Any]] = []
        self.url = ""

    def answer(self, method: str, path: str, body: Any) -> Any:
        self.requests.append((method, path, body))
        match (method, *path.strip("/").split("/")):
            case "GET", "collections", name, "exists":
                return {"exists": self.client.collection_exists(name)}
            case "GET", "collections", name:
                return self.client.get_collection(name).model_dump(mode="json")
            case "PUT", "collections", name:
                made = models.CreateCollection(**body)
                return self.client.create_collection(name, vectors_config=made.vectors, metadata=made.metadata)
            case "PUT", "collections", name, "points":
                return self.client.upsert(name, models.PointsList(**body).points).model_dump(mode="json")
            case "POST", "collections", name, "points":
                return [point.model_dump(mode="json") for point in self.client.retrieve(name, body["ids"])]
            case "POST", "collections", name, "points", "count":
                return self.client.count(name).model_dump(mode="json")
            case "POST", "collections", name, "points", "query", "batch":
                asked = [models.QueryRequest(**without_params(search)) for search in body["searches"]]
                return [found.model_dump(mode="json") for found in self.client.query_batch_points(name, asked)]
        raise LookupError(f"{method} {path}")


def without_params(query: Any) -> Any:
    """In memory they have no effect, and a warning."""
    kept = {name: value for name, value in query.items() if name != "params"}
    return kept | ({"prefetch": without_params(kept["prefetch"])} if kept.get("prefetch") else {})


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, length = urlsplit(self.path).path, int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if path == "/":
                content: Any = {"title": "qdrant", "version": "1.20.0"}
            else:
                content = {"result": server.answer(self.command, path, body), "status": "ok", "time": 0.0}
            sent = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_PUT = do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
            server.client.close()
