"""An ESP32 that sends readings to edged by MQTT, and keeps each until edged has it. MicroPython.

    mpremote mip install umqtt.simple
    mpremote cp config/examples/esp32.py :main.py

boot.py joins the Wi-Fi. USER is the device's name, and PASSWORD what `mosquitto_passwd` was given for it, where the
topology's section `mqtt` has logins. In the topology the device has `transport: mqtt`, `id: counter` and
`receipts: true`, and its stream `shape: [4]`, `dtype: float32`. MQTT 3.1.1 has no place for an id beside the payload,
so it is in the topic, after the label, which may be empty: greenhouse/iot/esp32-1//a1b2c3d4:17.

The broker's acknowledgement does not outlast the broker's crash; edged's receipt does: a line with the id, on
greenhouse/receipts/esp32-1. What has none is sent again, and edged knows by the id what it has already. The readings
are in memory: a restart loses those without a receipt, and without a network the oldest make room. A watchdog
restarts a device that hangs.
"""

import os
import struct
import time
from binascii import hexlify

from umqtt.simple import MQTTClient

BROKER, PORT, USER, PASSWORD = "broker.greenhouse.lan", 1883, None, None
SITE, DEVICE = "greenhouse", "esp32-1"
PERIOD_MS = 1000
MAX_KEPT = 100
RESEND_MS = 30000
ANSWER_S = 10
RETRY_MS = 5000
HANGS_MS = 300000
MAX_PACKET_ID = 65535


class Impatient:
    """A socket for umqtt.simple, which would wait for ever for an answer over a link that was cut without a word."""

    def __init__(self, sock):
        self._sock = sock
        self.read, self.write, self.close = sock.read, sock.write, sock.close
        self.setblocking(True)

    def setblocking(self, waits):
        self._sock.settimeout(ANSWER_S if waits else 0)


class Publisher:
    """Sends what `publish` is given, whenever `step` is called, until its receipt."""

    def __init__(self, client, site, device):
        self._client = client
        self._client.set_callback(self._received)
        self._samples = "%s/iot/%s" % (site, device)
        self._receipts = "%s/receipts/%s" % (site, device)
        self._series = hexlify(os.urandom(4)).decode()  # another one after each restart, for the numbers begin again
        self._number = 0
        self._is_connected = False
        self._tried = None
        self.kept = []  # [id, topic, payload, when it was sent or None], the oldest first
        self.num_lost = 0
        self.refused = []

    def publish(self, payload, label=""):
        """Take a reading; its id."""
        self._number += 1
        name = "%s:%d" % (self._series, self._number)
        if len(self.kept) == MAX_KEPT:
            self.kept.pop(0)
            self.num_lost += 1
        self.kept.append([name, "%s/%s/%s" % (self._samples, label, name), payload, None])
        return name

    def step(self):
        """Send what is due, and take in receipts. Without a network it tries to connect, at times, and returns."""
        try:
            if not self._is_connected:
                if self._tried is not None and time.ticks_diff(time.ticks_ms(), self._tried) < RETRY_MS:
                    return
                self._tried = time.ticks_ms()
                self._connect()
            self._client.check_msg()
            for each in list(self.kept):
                if each[3] is None or time.ticks_diff(time.ticks_ms(), each[3]) > RESEND_MS:
                    if self._client.pid >= MAX_PACKET_ID:  # umqtt.simple counts on, and waits for what never comes
                        self._client.pid = 0
                    self._client.publish(each[1], each[2], qos=1)
                    each[3] = time.ticks_ms()
        except Exception as error:  # umqtt.simple meets a broken connection with errors of many kinds
            print("no connection:", repr(error))
            self._is_connected = False

    def _connect(self):
        if self._client.sock is not None:
            self._client.sock.close()  # there are few
        self._client.connect(clean_session=False)
        self._client.sock = Impatient(self._client.sock)
        self._client.subscribe(self._receipts, 1)
        self._is_connected = True
        for each in self.kept:  # the broker may have forgotten what it had
            each[3] = None

    def _received(self, _topic, message):
        for line in message.decode().split("\n"):
            name, _, reason = line.partition("\t")
            if reason:
                self.refused.append((name, reason))
            self.kept = [each for each in self.kept if each[0] != name]


def reading():
    """What is measured; these are the numbers of a sample, little-endian, in the order of the stream's shape."""
    return struct.pack("<4f", 21.5, 0.4, 1.013, 0.0)


def main():
    """Publish a reading every PERIOD_MS."""
    import machine  # of the microcontroller alone

    client = MQTTClient("edged:%s:%s" % (SITE, DEVICE), BROKER, PORT, USER, PASSWORD, keepalive=30)
    publisher = Publisher(client, SITE, DEVICE)
    last = time.ticks_ms()
    watchdog = machine.WDT(timeout=HANGS_MS)
    while True:
        watchdog.feed()
        if time.ticks_diff(time.ticks_ms(), last) >= PERIOD_MS:
            last = time.ticks_ms()
            publisher.publish(reading())
        publisher.step()
        time.sleep_ms(50)


if __name__ == "__main__":
    main()
