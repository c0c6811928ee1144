"""Find people in the browser: photos, videos and the webcam, on a page that uploads nothing.

  dekr web                                        serves the page on this machine: open http://localhost:8000
  dekr web --model model.tflite --output site/    writes it as a static site, for any web server

The page runs the model itself, with LiteRT.js, which npm installs when the site is written. You may give two models,
one with the graph `poses` and one with `maps`: browsers with WebGPU take `maps`, others `poses`. Ctrl-C stops the
server.
"""

import argparse
import functools
import http.server
import tempfile
from pathlib import Path

from dekr_tf.errors import InputError
from dekr_tf.weights import PRESET

#: Browsers allow threads only on pages with these headers.
ISOLATION_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


class IsolatedHandler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder with `ISOLATION_HEADERS`."""

    # The machine's own types may be wrong, and browsers run no script of another type.
    extensions_map = {  # noqa: RUF012
        ".css": "text/css",
        ".html": "text/html",
        ".js": "text/javascript",
        ".json": "application/json",
        ".svg": "image/svg+xml",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def end_headers(self):
        for name, value in ISOLATION_HEADERS.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_):
        """Logs no requests."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `dekr web`."""
    parser.add_argument(
        "--model",
        default=[Path(PRESET)],
        nargs="+",
        type=Path,
        metavar="FILE",
        help=".tflite file of `dekr export`, or two of them: graph poses, and graph maps for WebGPU (default: the "
        "model of the package)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, metavar="SITE", help="write the site to this new or empty folder")
    where.add_argument(
        "--port", type=int, default=8000, metavar="N", help="serve it on this port of this machine (default: 8000)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs `dekr web`.

    Raises:
        InputError: a model cannot be used, LiteRT.js cannot be installed, the folder cannot be written, or the port is
            taken.
    """
    from dekr_tf.cli.web_site import check_models, write_site

    models = check_models(arguments.model)
    if arguments.output:
        write_site(models, arguments.output)
        print(f"{arguments.output}: the page with {', '.join(path.name for path in models.values())}")
        return
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder, "site")
        handler = functools.partial(IsolatedHandler, directory=site)
        with open_server(arguments.port, handler) as server:
            write_site(models, site)
            print(f"http://localhost:{server.server_port} has the page; ctrl-C ends it", flush=True)
            server.serve_forever()


def open_server(port: int, handler: type[IsolatedHandler]) -> http.server.ThreadingHTTPServer:
    """A server for browsers on this machine.

    Raises:
        InputError: the port is taken or invalid.
    """
    try:
        return http.server.ThreadingHTTPServer(("localhost", port), handler)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot serve on port {port}: {getattr(error, 'strerror', None) or error}") from error
