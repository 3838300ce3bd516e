"""The benchmark of `search_client index`: its pictures, and how it reads the server's count."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from bench.bench_index_command import embedded, metrics_url, write_pictures
from bench.serving.inputs import pictures

METRICS = b"""\
# HELP clip_search_batch_inputs Inputs in each batch.
clip_search_batch_inputs_bucket{le="1.0",model="demo",tower="image"} 3.0
clip_search_batch_inputs_sum{model="demo",tower="image"} 40.0
clip_search_batch_inputs_sum{model="other",tower="image"} 2.0
clip_search_batch_inputs_sum{model="demo",tower="text"} 7.0
"""


class Handler(BaseHTTPRequestHandler):
    """Tells metrics."""

    def do_GET(self) -> None:
        """Give them."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(METRICS)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_no_two_pictures_have_the_same_bytes(tmp_path: Path) -> None:
    """Else the server would know some already; nor are there very many in one folder."""
    write_pictures(tmp_path, pictures(7, 16, count=2), 990, 20)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len(files) == len({file.read_bytes() for file in files}) == 20
    assert {file.parent.name for file in files} == {"0001", "0002"}


def test_the_servers_count_is_that_of_pictures(tmp_path: Path) -> None:
    """Of all models together, and not of texts."""
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    log = tmp_path / "log"
    log.write_text(f"listening\nmetrics at http://127.0.0.1:{server.server_port}/metrics\n")
    try:
        assert embedded(metrics_url(log)) == 42
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
