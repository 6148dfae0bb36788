"""Writes a JSON line a second to hydrant's socket, and a last one when it is told to stop.

producer.py SOCKET

What every producer needs: it connects again when the daemon was restarted, and writes the line that
failed once more.
"""

import datetime
import itertools
import json
import signal
import socket
import sys
import threading

stopping = threading.Event()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stopping.set())


def line(number, message):
    time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "number": number, "message": message}).encode() + b"\n"


def connect(path):
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.connect(path)
    except OSError:
        stream.close()
        raise
    return stream


def main(path):
    stream = None
    for number in itertools.count():
        last = stopping.is_set()
        data = line(number, "stopping" if last else "hello")
        while True:
            try:
                stream = stream or connect(path)
                stream.sendall(data)
                break
            except OSError as error:
                print(f"{path}: {error}", file=sys.stderr)
                if stream is not None:
                    stream.close()
                    stream = None
                if stopping.wait(0.5):
                    sys.exit(1)
        if last:
            return
        stopping.wait(1)


main(sys.argv[1])
