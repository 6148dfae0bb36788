"""Clients of Fluent Forward in Python: fluent-logger, and what Docker's `fluentd` driver does.

    forward.py logger HOST PORT RECORDS     fluent-logger, as it comes
    forward.py docker SOCKET RECORDS        the driver's messages, each answered before the next
"""

import logging
import socket
import sys

import msgpack
from fluent import handler, sender


def logger(host, port, records):
    with sender.FluentSender("app", host=host, port=int(port), nanosecond_precision=True) as plain:
        for number in range(records):
            assert plain.emit("plain", {"number": number, "text": "Zeile mit ü, \" und \n"}), plain.last_error
    # Python's own log, as its handler has it.
    log = logging.getLogger("app")
    log.setLevel(logging.INFO)
    to_daemon = handler.FluentHandler("app.log", host=host, port=int(port))
    to_daemon.setFormatter(handler.FluentRecordFormatter({"level": "%(levelname)s"}))
    log.addHandler(to_daemon)
    log.info("%s", "said by logging")
    to_daemon.close()


def docker(path, records):
    """Message mode, whole seconds, a chunk with every message, and long lines in parts."""
    with socket.socket(socket.AF_UNIX) as driver:
        driver.connect(path)
        for number in range(records):
            record = {
                "container_id": "0123456789abcdef" * 4,
                "container_name": "/app",
                "source": "stdout",
                "log": f"line {number}",
            }
            if number % 10 == 9:
                record |= {
                    "partial_message": "true",
                    "partial_id": "abc",
                    "partial_ordinal": "1",
                    "partial_last": "false",
                }
            chunk = f"Y2h1bms{number}=="
            driver.sendall(msgpack.packb(["0123456789ab", 1700000000 + number, record, {"chunk": chunk}]))
            answers = msgpack.Unpacker()
            while True:
                answers.feed(driver.recv(4096))
                answer = next(answers, None)
                if answer is not None:
                    break
            assert answer == {"ack": chunk}, answer


if sys.argv[1] == "logger":
    logger(sys.argv[2], sys.argv[3], int(sys.argv[4]))
else:
    docker(sys.argv[2], int(sys.argv[3]))
print("done")
