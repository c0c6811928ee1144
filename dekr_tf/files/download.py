"""Downloads that resume where they broke off, and keep nothing whose checksum differs."""

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

from tqdm import tqdm

from dekr_tf.errors import InputError

#: Seconds without a byte after which the server counts as lost.
TIMEOUT = 30.0
BLOCK = 1 << 20


def download(url: str, path: Path, sha256: str) -> None:
    """Downloads a file, with a progress bar on a terminal.

    An incomplete file stays in `NAME.part` beside `path`; the next call requests only the rest. Two calls for one file
    must not run at the same time.

    Args:
        url: of the file, by HTTP.
        path: of the downloaded file, in an existing folder.
        sha256: hexadecimal digits that the file's SHA-256 begins with.

    Raises:
        InputError: the server cannot be reached, has no such file or breaks off; the checksum differs, and nothing is
            kept; or the file cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        response = _request(url, part.stat().st_size if part.exists() else 0)
        if response is not None:
            with response:
                _receive(response, url, part)
        received = _sha256(part)
        if not received.startswith(sha256):
            part.unlink()
            raise InputError(f"{url}: expected a file whose SHA-256 begins with {sha256}. Received: {received}")
        os.replace(part, path)
    except OSError as error:  # Network errors have become InputErrors by now.
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _request(url: str, start: int) -> http.client.HTTPResponse | None:
    """The server's response, from byte `start` on if it supports that; None if the file has no more bytes."""
    headers = {"User-Agent": "dekr_tf"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if start and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise InputError(f"{url}: expected a file. Received: {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"cannot reach {url}: {getattr(error, 'reason', None) or error}") from error


def _receive(response: http.client.HTTPResponse, url: str, part: Path) -> None:
    """Appends the response to the part, or replaces the part if the server sends the whole file."""
    resumed = response.status == HTTPStatus.PARTIAL_CONTENT
    received = part.stat().st_size if resumed else 0
    length = response.headers["Content-Length"]
    total = None if length is None else received + int(length)
    reason = "the connection was closed"
    with (
        open(part, "ab" if resumed else "wb") as file,
        tqdm(total=total, initial=received, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar,
    ):
        while True:
            try:
                block = response.read1(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                reason, block = str(error), b""
            if not block:
                break
            file.write(block)
            received += len(block)
            bar.update(len(block))
    if total is not None and received < total:
        raise InputError(
            f"{url}: expected {total} bytes. Received: {received}, {reason}; the same command goes on from there"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
