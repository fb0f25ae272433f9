"""MicroPython's umqtt.simple under CPython, on paho: as much as config/examples/esp32.py uses of it."""

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

_TIMEOUT_S = 0.2
_TRIES = 25


class MQTTException(Exception):  # noqa: N818 - its name there
    pass


class Socket:
    """As MicroPython's: a stream, too. What comes is read by paho."""

    def __init__(self, on_close):
        self._on_close = on_close
        self.timeouts_s = []
        self.read = self.write = None

    def settimeout(self, timeout_s):
        self.timeouts_s.append(timeout_s)

    def close(self):
        self._on_close(self)


class MQTTClient:
    def __init__(self, client_id, server, port=1883, user=None, password=None, keepalive=0):
        self._id, self._where, self._keepalive = client_id, (server, port), keepalive
        self._login = user, password
        self._callback = lambda _topic, _message: None
        self._done = set()
        self.sock, self.pid = None, 0

    def set_callback(self, callback):
        self._callback = callback

    def connect(self, clean_session=True):  # noqa: FBT002 - as it is there
        self._client = paho.Client(CallbackAPIVersion.VERSION2, self._id, clean_session=clean_session)
        self._client.username_pw_set(*self._login)
        self._client.on_message = lambda _client, _data, message: self._callback(
            message.topic.encode(), message.payload
        )
        self._client.on_publish = lambda _client, _data, number, *_: self._done.add(number)
        self._client.on_subscribe = lambda _client, _data, number, *_: self._done.add(number)
        self._done.clear()
        self._client.connect(*self._where, keepalive=max(5, self._keepalive))
        self._until(self._client.is_connected)
        self.sock = Socket(self._closed)

    def subscribe(self, topic, qos=0):
        _code, number = self._client.subscribe(topic, qos)
        self._until(lambda: number in self._done)

    def publish(self, topic, message, retain=False, qos=0):  # noqa: FBT002
        number = self._client.publish(topic, message, qos, retain).mid
        self._until(lambda: number in self._done)

    def check_msg(self):
        self._loop(0.0)

    def _closed(self, _socket):
        if (made := self._client.socket()) is not None:
            made.close()

    def _until(self, is_so):
        for _ in range(_TRIES):
            self._loop(_TIMEOUT_S)
            if is_so():
                return
        raise OSError(-1)

    def _loop(self, timeout_s):
        if self._client.loop(timeout_s):
            raise OSError(-1)
