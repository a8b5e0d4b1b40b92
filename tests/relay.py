"""A relay before the Docker engine that can be cut."""

import contextlib
import socket
import subprocess
import threading
from pathlib import Path


class Relay:
    """A Unix socket that leads to the engine's, until it is cut; `mend` lets it lead there
    again.
    """

    def __init__(self, target):
        # a Unix socket's path is short
        self.folder = subprocess.check_output(["mktemp", "-d"], text=True).strip()
        self.target, self.open = target, []
        self.mend()

    @property
    def address(self):
        return f"unix://{self.folder}/s"

    def mend(self):
        with contextlib.suppress(FileNotFoundError):
            Path(self.folder, "s").unlink()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.folder}/s")
        self.listener.listen()
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self):
        for end in (self.listener, *self.open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.open.clear()

    @contextlib.contextmanager
    def cut_off(self):
        self.cut()
        try:
            yield
        finally:
            self.mend()

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self.target)
                self.open.extend((near, far))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
