"""edged: devices sample, edges train while data streams, an archive keeps it all; Apache Kafka carries it.

The packages, bottom up (import-linter holds the order, see pyproject.toml):

- `errors`, `events`, `log`: what can go wrong, what is logged, and how.
- `domain`: pure decisions on values: numpy and the standard library; no I/O, no clock, no event loop.
- `ports`, `config`, `aio`: what the services ask of the outside; settings; running blocking work.
- `services`: one coroutine `run()` each, the loops of the daemon. `adapters`: Kafka, disks, images, runtimes.
- `app`: the only place that knows both, and the only one that starts tasks. `cli`: the commands.
"""

__version__ = "0.1.0"
