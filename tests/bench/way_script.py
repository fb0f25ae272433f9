"""The plain script that `way` measures beside the edge: a Kafka consumer, tf.data, and Keras's fit.

Run by `way` in the environment of TensorFlow: python way_script.py BOOTSTRAP TOPIC CODEC SIZE CHANNELS CLASSES SAMPLES
BATCH EPOCHS. As such scripts are written: each epoch reads the topic again from its beginning. Keys are the classes'
numbers. The last line is JSON.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import confluent_kafka
import numpy as np

tf: Any = importlib.import_module("tensorflow")  # it has no types

_AT_ONCE = 500


def main() -> None:
    bootstrap, topic, codec, *numbers = sys.argv[1:]
    size, channels, classes, num_samples, batch, epochs = map(int, numbers)
    num_bytes = 0

    def records() -> Iterator[tuple[bytes, int]]:
        nonlocal num_bytes
        consumer = confluent_kafka.Consumer({"bootstrap.servers": bootstrap, "group.id": "script"})
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
        left = num_samples
        while left:
            for message in consumer.consume(min(_AT_ONCE, left), timeout=1.0):
                if message.error():
                    raise confluent_kafka.KafkaException(message.error())
                value, key = message.value(), message.key()
                assert value is not None
                assert key is not None
                num_bytes += len(value)
                left -= 1
                yield value, int(key)
        consumer.close()

    def decoded(value: Any, label: Any) -> tuple[Any, Any]:
        if codec == "raw":
            pixels = tf.reshape(tf.io.decode_raw(value, tf.uint8), (size, size, channels))
        else:
            pixels = tf.ensure_shape(tf.io.decode_jpeg(value, channels), (size, size, channels))
        return tf.cast(pixels, tf.float32) / 255.0, label

    data = tf.data.Dataset.from_generator(
        records, output_signature=(tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64))
    )
    data = data.map(decoded, num_parallel_calls=tf.data.AUTOTUNE).shuffle(10 * batch).batch(batch).prefetch(2)
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Input((size, size, channels)),
            layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(),
            layers.Flatten(), layers.Dense(classes),
        ]
    )  # fmt: skip
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.SGD(0.05, 0.9), loss, metrics=["accuracy"])
    model.fit(data, epochs=1, verbose=0)  # compiles
    num_bytes, begun_s, begun_cpu_s = 0, time.perf_counter(), time.process_time()
    model.fit(data, epochs=epochs, verbose=0)
    seconds, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trained = epochs * num_samples
    report = {
        "samples_per_s": trained / seconds, "cpu_us_a_sample": 1e6 * cpu_s / trained, "peak_rss_bytes": peak,
        "bytes_a_sample": num_bytes / trained, "parameters": int(np.sum([np.prod(w.shape) for w in model.weights])),
    }  # fmt: skip
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
