"""A real MLflow server on a free port, and an HTTP proxy in front of it that misbehaves on
demand."""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.skdtune.builders import free_port, wait_for

PASS, DROP, ERROR, DELAY = "pass", "drop", "error", "delay"
DELAY_S = 0.3


class Server:
    """`mlflow server` over a database, SQLite unless its URI is given, and artifacts in a folder,
    started and killed at will."""

    def __init__(self, folder: Path, database: str = ""):
        self.folder, self.port = folder, free_port()
        self.database = database or f"sqlite:///{folder}/mlflow.db"
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", self.database]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        wait_for(self._answers, 90, "mlflow server starts")

    def kill(self) -> None:
        """SIGKILL to the server and its workers, which are a process group of their own."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


class Proxy:
    """Hands requests on to a port of this machine. fault: what is done to the n-th one, n from 1:
    PASS, DROP the answer after the server has acted, ERROR 500 without asking it, DELAY it."""

    def __init__(self, port: int, fault: Callable[[int], str]):
        self.fault, self.target = fault, port
        self.count, self.faults = 0, 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def next_fault(self) -> str:
        with self._lock:
            self.count += 1
            chosen = self.fault(self.count)
            self.faults += chosen != PASS
            return chosen

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self._body()
                fault = proxy.next_fault()
                if fault == ERROR:
                    self._answer(500, {}, b"{}")
                    return
                if fault == DELAY:
                    time.sleep(DELAY_S)
                connection = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=30)
                hop = ("host", "connection", "transfer-encoding", "content-length")
                headers = {k: v for k, v in self.headers.items() if k.lower() not in hop}
                try:
                    connection.request(self.command, self.path, body, headers)
                    answer = connection.getresponse()
                    content = answer.read()
                except OSError:  # the server is down
                    self.close_connection = True
                    return
                finally:
                    connection.close()
                if fault == DROP:
                    self.close_connection = True
                    return
                self._answer(answer.status, dict(answer.getheaders()), content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def _answer(self, status: int, headers: dict, content: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                """Nothing: pytest shows enough."""

        return Handler
