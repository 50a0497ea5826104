"""What stands between a daemon and its broker: a TCP relay that a test can slow, cut, reset at a chosen byte, take away, or put words of its own in the mouth of."""

import base64
import contextlib
import hashlib
import os
import re
import select
import socket
import struct
import threading
import time

from harness import WebSocket


class Front:
    """Listens where the daemon thinks its broker is. `target` is the port of the real one (None: refuse); `behaviour(sock, index)`, when set, is asked instead."""

    def __init__(self, world):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/ws"
        self.target = None
        self.behaviour = None
        self.cuts = []  # (direction, bytes): for the next connections, one each; "up" is from the daemon
        self.chunk, self.pause = 262144, 0.0
        self.attempts = []  # when each connection came
        self.lock, self.sockets, self.stopping = threading.Lock(), [], False
        threading.Thread(target=self._accept, daemon=True).start()
        world.closers.append(self.close)

    def _accept(self):
        while not self.stopping:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.attempts.append(time.monotonic())
            with self.lock:
                self.sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock, len(self.attempts) - 1), daemon=True).start()

    def _serve(self, sock, index):
        try:
            if self.behaviour is not None:
                sock.settimeout(60)
                self.behaviour(sock, index)
            elif self.target is None:
                reset(sock)
            else:
                self._relay(sock)
        except (OSError, ConnectionError, IndexError, KeyError, TypeError, AttributeError, ValueError):
            pass
        finally:
            with contextlib.suppress(OSError):
                sock.close()

    def _relay(self, sock):
        """One thread for both directions: a socket that another thread still reads from is not reset by closing it."""
        direction, left = self.cuts.pop(0) if self.cuts else (None, None)
        far = socket.create_connection(("127.0.0.1", self.target), timeout=20)
        with self.lock:
            self.sockets.append(far)
        try:
            while True:
                for source in select.select([sock, far], [], [])[0]:
                    cut_here = direction == ("up" if source is sock else "down")
                    data = source.recv(min(self.chunk, left) if cut_here else self.chunk)
                    if not data:
                        return
                    (far if source is sock else sock).sendall(data)
                    if cut_here:
                        left -= len(data)
                    if left == 0:
                        time.sleep(0.01)  # so that what went before is read, and not thrown away by the reset
                        reset(sock)
                        reset(far)
                        return
                    if self.pause:
                        time.sleep(self.pause)
        finally:
            far.close()

    def drop(self):
        """Ends every connection."""
        with self.lock:
            sockets, self.sockets = self.sockets, []
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.stopping = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.drop()


def reset(sock):
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_head(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError("closed")
        data += more
    return data


def upgrade(sock):
    """Answers the handshake as a broker does; the WebSocket."""
    head, _, rest = read_head(sock).partition(b"\r\n\r\n")
    key = re.search(rb"sec-websocket-key: *(\S+)", head, re.I).group(1).decode()
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
    sock.sendall(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
                 f"X-Claudemesh-Challenge: {os.urandom(32).hex()}\r\n\r\n".encode())
    socket_ = WebSocket(sock, False)
    socket_.buffer = rest
    return socket_
