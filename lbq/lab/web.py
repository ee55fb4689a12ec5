"""A web server that answers every request with its own name: ``python -m lbq.lab.web web01 [80]``.

With the name alone one sees who was chosen; there is nothing else to learn from it.
"""
from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class SayName(BaseHTTPRequestHandler):
    """Answer GET with the server's name and close the connection, as HTTP/1.0 does."""

    def do_GET(self) -> None:
        """Answer with the name."""
        body = f"{self.server.title}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(name: str, port: str = "80") -> None:
    """Serve on *port* of every address of this namespace until a signal comes."""
    server = ThreadingHTTPServer(("", int(port)), SayName)
    server.title = name
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
