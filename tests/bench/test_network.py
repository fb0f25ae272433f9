"""Links: what is sent arrives whole, in order, and not before its time."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.bench.delay import carry
from tests.bench.network import Namespaces, Network, Proxies, link_name, read_link

ECHOED = 60_000  # fits the buffers: neither end waits for the other to read
CLIENT = """
import os, socket, sys, time
host, port = sys.argv[1].rsplit(":", 1)
with socket.create_connection((host, int(port))) as connection:
    begin = time.monotonic()
    connection.sendall(b"?")
    assert connection.recv(1) == b"?"
    print(time.monotonic() - begin)
    sent, received = os.urandom(int(sys.argv[2])), b""
    connection.sendall(sent)
    while len(received) < len(sent):
        received += connection.recv(1 << 16)
    assert received == sent
"""


@pytest.mark.parametrize(
    ("text", "link", "name"),
    [
        ("94/0.3", (94e6, 0.3), "94 Mbit/s + 0.3 ms"),
        ("20", (20e6, 0.0), "20 Mbit/s"),
        ("0", (0.0, 0.0), "unlimited"),
        ("0/3", (0.0, 3.0), "unlimited + 3 ms"),
    ],
)
def test_a_link_is_a_width_and_a_delay(text, link, name):
    assert read_link(text) == link
    assert link_name(*link) == name


def test_packets_are_carried_to_the_opposite_device_in_order_and_not_before_their_time():
    delay_s = 0.02
    with contextlib.ExitStack() as stack:
        pairs_of_ends = [socket.socketpair(type=socket.SOCK_DGRAM) for _ in range(4)]
        near = [stack.enter_context(end) for end, _ in pairs_of_ends]
        devices = [stack.enter_context(end).fileno() for _, end in pairs_of_ends]
        until, end = os.pipe()
        pairs = [(devices[0], devices[1]), (devices[2], devices[3])]
        relay = threading.Thread(target=carry, args=(pairs, delay_s, until), daemon=True)
        relay.start()
        begin = time.monotonic()
        for number in range(10):
            for i, each in enumerate(near):
                each.send(b"%d from %d" % (number, i))
        for i, opposite in enumerate((1, 0, 3, 2)):
            assert near[i].recv(100) == b"0 from %d" % opposite
            assert time.monotonic() - begin >= delay_s
            assert [near[i].recv(100) for _ in range(9)] == [b"%d from %d" % (n, opposite) for n in range(1, 10)]
        os.close(end)
        relay.join()
        os.close(until)


def echo(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        while received := connection.recv(1 << 16):
            connection.sendall(received)


@pytest.mark.parametrize("kind", ["namespaces", "proxies"])
def test_an_answer_takes_the_delay_twice_and_what_is_sent_arrives_whole(kind):
    delay_s = 0.02
    with contextlib.ExitStack() as stack:
        try:
            made: Network = Namespaces() if kind == "namespaces" else Proxies(1, "for the test")
            stack.enter_context(made)
            (attachment,) = stack.enter_context(made.links(1, 94e6, delay_s))
        except OSError as error:
            pytest.skip(f"no links of this kind: {error}")
        (port,) = made.listeners.ports.values()
        listener = stack.enter_context(socket.create_server((made.listeners.host, port)))
        echoing = threading.Thread(target=echo, args=(listener,), daemon=True)
        echoing.start()
        command = [*attachment.within, sys.executable, "-c", CLIENT, attachment.bootstrap, str(ECHOED)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        echoing.join()
        assert float(answer) >= 2 * delay_s
        assert min(attachment.traffic()) > ECHOED
