"""Run one ``tmad`` command in a fork of a warm process (tests/warm.py), for a shell's scripts."""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as warm:
    warm.connect(sys.argv[1])
    request = json.dumps([sys.argv[2:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(warm, [request], [0, 1, 2])
    sys.exit(int(warm.recv(16) or b"70") & 0xFF)
