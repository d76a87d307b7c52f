"""A local stand-in for the Hugging Face hub: the few endpoints that an upload and a download need.

It keeps what it is sent in memory. Large files arrive as on the hub: first the LFS batch request,
then their bytes, and in the commit only their digest.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_test_token"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What the server was asked and what it holds."""

    def __init__(self) -> None:
        self.url = ""
        self.created: list[dict[str, Any]] = []
        self.branches: list[str] = []
        self.commits: list[str] = []  # the revision of each
        self.objects: dict[str, bytes] = {}  # LFS, by SHA-256
        self.files: dict[str, bytes] = {}  # of the last commit, by path
        self.refuse: dict[str, int] = {}  # status by a part of the path


@contextmanager
def running() -> Iterator[Hub]:
    """The server, on a free port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, value: Any, status: int = 200, **headers: str) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refused(self) -> bool:
            path = unquote(self.path)
            status = next((code for part, code in hub.refuse.items() if part in path), None)
            if status is None and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status = 401
            if status is not None:
                self.answer({"error": "no <b>way</b>"}, status)
            return status is not None

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = unquote(self.path)
            if self.refused():
                return
            if path == "/api/repos/create":
                hub.created.append(json.loads(body))
                name = hub.created[-1]["name"]
                owner = hub.created[-1]["organization"] or "me"
                self.answer({"url": f"{hub.url}/{owner}/{name}"})
            elif path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif "/branch/" in path:
                hub.branches.append(path.partition("/branch/")[2])
                self.answer({})
            elif "/preupload/" in path:
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = {True: "lfs", False: "regular"}
                files = [
                    {
                        "path": name,
                        "uploadMode": modes[name.endswith(".safetensors")],
                        "shouldIgnore": False,
                    }
                    for name in names
                ]
                self.answer({"files": files})
            elif path.endswith("/info/lfs/objects/batch"):
                wanted = json.loads(body)["objects"]
                self.answer(
                    {
                        "transfer": "basic",
                        "objects": [
                            one | {"actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}}
                            for one in wanted
                        ],
                    }
                )
            elif "/commit/" in path:
                self.commit(path, body)
            else:
                self.answer({"error": f"unknown {path}"}, 404)

        def commit(self, path: str, body: bytes) -> None:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "lfsFile":
                    hub.files[entry["value"]["path"]] = hub.objects[entry["value"]["oid"]]
            name, _, revision = path.removeprefix("/api/models/").partition("/commit/")
            hub.commits.append(revision)
            url = f"{hub.url}/{name}/commit/{COMMIT}"
            self.answer({"commitUrl": url, "commitOid": COMMIT})

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            digest = self.path.rpartition("/")[2]
            assert hashlib.sha256(body).hexdigest() == digest
            hub.objects[digest] = body
            self.answer({})

        def do_GET(self) -> None:
            path = unquote(self.path).partition("?")[0]
            if self.refused():
                return
            if "/tree/" in path:
                listed = [
                    {"type": "file", "path": name, "size": len(data), "oid": COMMIT}
                    for name, data in hub.files.items()
                ]
                self.answer(listed)
            elif path.startswith("/api/models/"):
                siblings = [{"rfilename": name} for name in hub.files]
                self.answer({"id": "me/model", "sha": COMMIT, "siblings": siblings})
            elif "/resolve/" in path:
                name = path.partition("/resolve/")[2].partition("/")[2]
                if name not in hub.files:
                    self.answer({"error": "no such file"}, 404, X_Error_Code="EntryNotFound")
                    return
                digest = hashlib.sha256(hub.files[name]).hexdigest()
                self.answer(hub.files[name], ETag=f'"{digest}"', X_Repo_Commit=COMMIT)
            else:
                self.answer({"error": f"unknown {path}"}, 404)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
