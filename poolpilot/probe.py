"""Asks one URL and exits 0 if the answer is 200: the health check of containers without curl.

``python -m poolpilot.probe http://127.0.0.1:18001/readyz``. Imports next to nothing, because it
runs every few seconds.
"""

from __future__ import annotations

import http.client
import sys
from urllib.parse import urlsplit

LIMIT = 2.0
"""Seconds."""


def probe(url: str) -> str:
    """What is wrong; empty if the answer is 200."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=LIMIT)
    try:
        connection.request("GET", parts.path or "/")
        response = connection.getresponse()
        body = response.read(500)
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return "" if response.status == 200 else f"{response.status} {body.decode(errors='replace')}"


def main(arguments: list[str]) -> int:
    (url,) = arguments
    objection = probe(url)
    if objection:
        sys.stderr.write(f"{url}: {objection}\n")
    return 1 if objection else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
