"""A stand-in for a model hub: one repository at one revision on this machine, 404 for anything else."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

from common.core.files import sha256


@contextlib.contextmanager
def stand_in(repository: str, revision: str, folder: Path, path: str = "{0}/resolve/{1}") -> Iterator[str]:
    """Serves the files of a folder at a path made of repository and revision; gives the address for HF_ENDPOINT."""
    prefix = f"/{path.format(repository, revision)}/"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            path = folder / self.path.removeprefix(prefix)
            if not self.path.startswith(prefix) or not path.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "RevisionNotFound")
                self.end_headers()
                return
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{sha256(path)}"')
            self.send_header("X-Repo-Commit", revision)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
