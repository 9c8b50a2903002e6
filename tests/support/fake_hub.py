"""A server with the part of the Hugging Face Hub's interface that creates, fills and reads a model repository."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

SHA = "0" * 40


class Hub(ThreadingHTTPServer):
    """The server; `files` are those of each repository."""

    files: dict[str, dict[str, bytes]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, data: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, content: object, code: int = 200, **headers: str) -> None:
        self._send(json.dumps(content).encode(), code, Content_Type="application/json", **headers)

    def _parts(self) -> tuple[str, list[str]]:
        parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
        start = 2 if parts[:2] == ["api", "models"] else 0
        return "/".join(parts[start : start + 2]), parts[start + 2 :]

    def do_GET(self) -> None:
        name, rest = self._parts()
        files = self.server.files.get(name)
        if files is None:
            self._json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif rest[:1] == ["resolve"]:
            data = files.get("/".join(rest[2:]))
            if data is None:
                self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
                return
            span = self.headers.get("Range")
            if span:
                first, _, last = span.removeprefix("bytes=").partition("-")
                data = data[int(first) : int(last) + 1 if last else None]
            self._send(data, 206 if span else 200, ETag='"x"', X_Repo_Commit=SHA)
        elif rest[:1] == ["tree"]:
            entries = [{"type": "file", "path": path, "size": len(data), "oid": SHA} for path, data in files.items()]
            self._json(entries)
        else:
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "modelId": name, "sha": SHA, "private": False, "tags": [], "siblings": siblings})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self._body()
        if self.path.startswith("/api/validate-yaml"):
            self._json({"errors": [], "warnings": []})
            return
        if self.headers.get("Authorization") != "Bearer hf_test":
            self._json({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            content = json.loads(body)
            name = f"{content['organization']}/{content['name']}"
            self.server.files.setdefault(name, {})
            self._json({"url": f"{self.server.url}/{name}"})
        else:
            self._write(*self._parts(), body)

    def _write(self, name: str, rest: list[str], body: bytes) -> None:
        files = self.server.files[name]
        if rest[0] == "preupload":
            wanted = json.loads(body)["files"]
            plain = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in wanted]
            self._json({"files": plain})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del files[line["value"]["path"]]
            self._json({"commitUrl": f"{self.server.url}/{name}/commit/{SHA}", "commitOid": SHA, "success": True})


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """Serve a Hub without repositories."""
    hub = Hub(("127.0.0.1", 0), _Handler)
    hub.files = {}
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
