"""A small HTTP server on this machine, that can be told to misbehave."""

import contextlib
import http.server
import re
import threading
import time


class FileServer:
    """Serves bytes by path.

    Attributes:
        files: what there is.
        redirects: from path to path.
        cut: bytes of a body after which the connection is closed; None: never.
        ranges: whether parts of files are given.
        pause: seconds before each kilobyte.
        requests: path and Range header of what was asked for.
    """

    def __init__(self, files):
        self.files = files
        self.redirects = {}
        self.cut = None
        self.ranges = True
        self.pause = 0
        self.requests = []
        self.url = ""


@contextlib.contextmanager
def running(server):
    """Runs it meanwhile, in threads."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            wanted = self.headers.get("Range")
            server.requests.append((self.path, wanted))
            if self.path in server.redirects:
                self.send_response(302)
                self.send_header("Location", server.redirects[self.path])
                self.end_headers()
                return
            if self.path not in server.files:
                self.send_error(404)
                return
            body = server.files[self.path]
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
            if start >= len(body) and start:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            body = body[start : len(body) if server.cut is None else start + server.cut]
            for first in range(0, len(body), 1024):
                time.sleep(server.pause)
                self.wfile.write(body[first : first + 1024])

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server.url = f"http://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        listener.shutdown()
        thread.join()
