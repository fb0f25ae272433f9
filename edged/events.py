"""Every event that edged logs: its name, its description, and its fields with their types.

The published schema (`edged schema --events`) is made from this table, and a test holds every logged line to it.
Field names have units. Payloads and secrets are never fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_JSON_TYPE: Mapping[type, str | list[str]] = {
    str: "string", int: "integer", bool: "boolean", list: "array", dict: "object",
    float: ["number", "null"],  # null: not a finite number, which JSON does not have
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """An event's description, and its fields in addition to COMMON."""

    doc: str
    fields: Mapping[str, type]
    optional: frozenset[str] = frozenset()


def event(doc: str, *, optional: tuple[str, ...] = (), **fields: type) -> Event:
    """An Event; every field is required but those named in `optional`."""
    return Event(doc, fields, frozenset(optional))


def _of_job(doc: str, *, optional: tuple[str, ...] = (), **fields: type) -> Event:
    """An event of one training job, whose name is a field if jobs have names."""
    return event(doc, optional=(*optional, "job"), **fields, job=str)


COMMON: Mapping[str, type] = {"ts": str, "level": str, "event": str, "node": str, "tier": str, "run_id": str}
"""Fields of every line: UTC time (ISO 8601, milliseconds), level, event name, and the node that logs it."""

EVENTS: Mapping[str, Event] = {
    # config: the topology file
    "config.refused": event(
        "The topology file is not taken: at a start the node ends, while it runs the one that it has stays in effect. "
        "Problems: what is wrong with the file. Keys: what has changed in it and takes a restart. `omitted` more.",
        optional=("problems", "keys", "omitted"), reason=str, problems=list, keys=list, omitted=int,
    ),
    "config.warned": event(
        "The topology file is taken, and something in it is probably not intended: what `edged check` warns of, and "
        "secrets that others may read.", problems=list,
    ),
    "config.reloaded": event(
        "The topology file was read again (SIGHUP), and is in effect. Keys: what has changed in it; `omitted` more.",
        optional=("omitted",), keys=list, omitted=int,
    ),
    # life: the process
    "life.refused": event(
        "The node does not start, or ends: another run of it goes on, its state folder cannot be used, or there was no "
        "memory, process or thread for it.", reason=str,
    ),
    "life.started": event("The process is running.", version=str, pid=int, topology=str),
    "life.ready": event("Start-up is complete; degraded if an external part is missing.", degraded=bool),
    "life.stopping": event("A stop was requested; intake ends.", signal=str),
    "life.stopped": event(
        "The process ends.", uptime_s=float, peak_rss_bytes=int, exit_code=int
    ),
    "life.abandoned": event("The process ends at once, without a clean stop.", reason=str),
    "life.crashed": event(
        "A service failed; the process ends. systemd restarts it, unless that does not help.",
        err=str, err_type=str, traceback=str,
    ),
    "life.waiting": event(
        "The start, or a recovery, waits for something for more than 30 s.", wait_for=str, waited_s=float
    ),
    "life.waited": event("What was waited for has come.", wait_for=str, waited_s=float),
    "life.few_threads": event(
        "The system starts no more threads for this process: those that there are do all, slower. Look at TasksMax= of "
        "its unit, and at the limit of its user.", threads=int, wanted=int, err=str,
    ),
    "life.notify_failed": event("A notification did not reach the service manager.", err=str),
    "health.degraded": event(
        "An external part does not answer, or one source (`archive/<stream>/<source>`) or edge (`epochs/<edge>`) "
        "cannot be served, or one device (`device/<device>`, `predictions/<device>`).",
        part=str, reason=str,
    ),
    "health.recovered": event("The part answers again.", part=str, degraded_s=float),
    # presence: one run of a node, or of a companion, at a time
    "presence.begun": event(
        "No older run of this node is alive. `former_is`: dead (its process has ended on this machine), silent (it has "
        "written nothing for a while), ended (by its own word), or nothing where none is known.",
        former=str, former_is=str, former_host=str, waited_s=float,
    ),
    "presence.another_run": event(
        "Another run of this node is alive, perhaps on another machine: the older one goes on, the other ends with 75. "
        "`goes_on`: whether that is the other one. `suppressed` more of that host since the last such line.",
        other_run=str, host=str, pid=int, folder=str, goes_on=bool, suppressed=int,
    ),
    "presence.unknown": event(
        "Whether another run of this node is alive cannot be told, mostly for a missing right. It works without; "
        "`edged topics` prints the right.", reason=str,
    ),
    # kafka
    "kafka.unreadable": event(
        "Records that cannot be decoded, or that unpack to far more than any of edged's; reading continues after them. "
        "`suppressed` more of the topic since its last such line.",
        topic=str, partition=int, first_offset=int, next_offset=int, err=str, suppressed=int,
    ),
    "kafka.connected": event("The broker answers.", bootstrap=str, idempotent=bool),
    "kafka.topics_missing": event(
        "Topics do not exist, and the node has no right to create them; what needs them waits for them. "
        "`edged topics` prints how an administrator makes them.", topics=list,
    ),
    "kafka.topic_setting": event(
        "A topic that exists has a setting that loses or refuses data. Nothing is changed: `command` would.",
        topic=str, setting=str, value=str, wanted=str, effect=str, command=str,
    ),
    "kafka.settings_unseen": event(
        "The node has no right to see the settings of these topics, to tell whether they would lose data. It works "
        "without; `edged topics` prints the right.", topics=list,
    ),
    "kafka.gap": event(
        "Records were deleted before they were read; reading continues after them.",
        topic=str, partition=int, wanted_offset=int, next_offset=int,
    ),
    "kafka.another_log": event(
        "The partition is another log than before: its topic was deleted and recreated, or its records were lost. It is"
        " read from its beginning; nothing of the former one is read any more.",
        topic=str, partition=int, wanted_offset=int, next_offset=int,
    ),
    "kafka.held_up": event(
        "A transaction of another client is open: nothing after `offset` can be read before it ends.",
        topic=str, partition=int, offset=int, records=int, held_s=float,
    ),
    "kafka.let_go": event("That transaction has ended.", topic=str, partition=int, offset=int, held_s=float),
    "kafka.client": event(
        "A message of the Kafka client; `suppressed` more since the last such line.",
        message=str, logger=str, suppressed=int,
    ),
    # mqtt
    "mqtt.connected": event(
        "The MQTT broker has taken a client and its subscriptions. Version: of MQTT.", client=str, version=str
    ),
    "mqtt.session_lost": event(
        "The MQTT broker no longer had the session of a client: it was restarted without its store, or has forgotten "
        "it. What it had acknowledged and not delivered is lost, but for devices that keep samples until edged's "
        "receipt.",
        client=str,
    ),
    "mqtt.dropped": event(
        "Packets of QoS 0 came faster than Kafka took them, and were dropped; packets: since the connection was first "
        "made. With QoS 1 the device would have been slowed down instead.",
        client=str,
        packets=int,
        suppressed=int,
    ),
    "mqtt.bridged": event(
        "What the edge took from its MQTT devices since the last such line. Records: written to their Kafka topics, of "
        "`bytes`. Packs: packets of many samples. Duplicates: not written again, by their ids. Doubles: written, and "
        "perhaps twice. Rejected: in the dead-letter topic. Retained: of before, ignored. Missing: ids that never "
        "came, less those that came late.",
        records=int, bytes=int, packs=int, duplicates=int, doubles=int, rejected=int, retained=int, missing=int,
        receipts=int, receipts_undelivered=int,
    ),
    "mqtt.gap": event(
        "A device's ids jump: so many are missing since the start. The sample with `id` is the first after the gap. "
        "`suppressed` more of the device since its last such line.", device=str, id=str, missing=int, suppressed=int,
    ),
    "mqtt.id_missing": event(
        "So many samples of a device, since the start, came without an id in the topic or the user property `id`, "
        "though its `id:` in the topology promises one, or it asks for receipts, which name it. They are taken, at "
        "least once, without a receipt. `suppressed` more of the device since its last such line.",
        device=str, samples=int, suppressed=int,
    ),
    "mqtt.counter_restarted": event(
        "A device's counter fell by more than its window of 1,024: what it sends is taken for new. `suppressed` more "
        "of the device since its last such line.", device=str, id=str, suppressed=int,
    ),
    "mqtt.doubles": event(
        "Records of a device, since the start, that may be in its topic twice: a process had ended. Their header is "
        "`edged-double`. With `id:` for the device there are none. `suppressed` more of its lines were not logged.",
        device=str, records=int, suppressed=int,
    ),
    "mqtt.receipt_undelivered": event(
        "Receipts did not reach a device; it sends those samples again, and they are recognised. `suppressed` more of "
        "the device since its last such line.", device=str, receipts=int, reason=str, suppressed=int,
    ),
    "mqtt.paused": event(
        "Kafka takes nothing of a device for 20 s: its connection is closed, and the MQTT broker keeps what it sends "
        "until Kafka does. `suppressed` more devices since the last such line.", device=str, suppressed=int,
    ),
    "mqtt.limits": event(
        "A limit of the MQTT broker is not what the topology needs; without `has` it has none. Loses: samples that the "
        "broker has acknowledged, which also degrades `mqtt/limits`. `edged topics` prints the settings.",
        optional=("has",), limit=str, has=int, needs=int, effect=str, loses=bool,
    ),
    "mqtt.probe_failed": event(
        "What the MQTT broker drops could not be found out by packets to the edge's own topic: it refuses them, or the "
        "connection broke. `edged topics` prints the right.", topic=str, reason=str,
    ),
    # ingest
    "ingest.rejected": event(
        "A device's record cannot be used; it is in the dead-letter topic. `suppressed` more like it were not logged.",
        device=str, partition=int, offset=int, reason=str, detail=str, size_bytes=int, suppressed=int,
    ),
    "ingest.time_ignored": event(
        "A device says when it took a sample, and not in whole milliseconds (`edged-sampled-ms`, over MQTT the user "
        "property `sampled_ms`): it is taken without that time. Samples: of the device, since the start. `suppressed` "
        "more of the device since its last such line.", device=str, value=str, samples=int, suppressed=int,
    ),
    "ingest.reading": event("Reading of the devices' topics starts.", partitions=int),
    # uplink
    "uplink.resumed": event("Intake resumes after the stream's last pack.", stream=str, next_offset=int),
    "uplink.malformed": event(
        "A record in the edge's own archive topic is not a pack of this edge; it is skipped. `suppressed` more since "
        "the last such line.",
        topic=str, offset=int, err=str, suppressed=int,
    ),
    "uplink.another_log": event(
        "The edge's archive topic is another log than before: what was in it is gone. The devices' topics are read from"
        " their beginnings, and the archive leaves out what it has.",
        topic=str, wanted_offset=int, next_offset=int,
    ),
    "uplink.rewound": event(
        "The trainer's offset is beyond the archive topic's end: the topic was recreated.",
        topic=str, wanted_offset=int, next_offset=int,
    ),
    # epoch: the data of an epoch on its way from the archive
    "epoch.drawn": _of_job(
        "The order of an epoch is fixed. Quarantined: samples of its snapshot that are taken out of training.",
        epoch=int, blocks=int, samples=int, quarantined=int, first_sample=int,
    ),
    "epoch.redrawn": _of_job(
        "The archive or the prefetch budget has changed since the epoch began; it begins again.", epoch=int
    ),
    "epoch.memo_skipped": _of_job(
        "The saved state of the sampler cannot be read; the epoch is drawn again from what the cache holds.",
        epoch=int, err=str,
    ),
    "epoch.memo_failed": _of_job(
        "The state of the sampler cannot be saved; after a restart the epoch would be drawn again.",
        epoch=int, err=str,
    ),
    "epoch.empty": _of_job("The archive has nothing to train on yet; it is asked again at intervals.", epoch=int),
    "epoch.useless": _of_job(
        "None of its samples can be trained on (`epoch.skipped` says why): it does not count, and is drawn again once "
        "the archive has others.",
        epoch=int, samples=int,
    ),
    "epoch.asked_again": _of_job(
        "The archive did not answer; missing samples are requested again.", silent_s=float, samples=int
    ),
    "epoch.missing": _of_job("The archive could not read some samples; training continues without them.", samples=int),
    "epoch.skipped": _of_job(
        "Samples that arrived but cannot be trained on.", epoch=int, unlabelled=int, undecodable=int, not_finite=int
    ),
    "epoch.malformed": _of_job(
        "A reply of the archive breaks its format; it is ignored. `suppressed` more since the last such line.",
        err=str, suppressed=int,
    ),
    # cache: samples kept on the edge
    "cache.opened": event(
        "The cache is open, with the entries of earlier runs on disk.", entries=int, bytes=int, ms=float
    ),
    "cache.epoch": _of_job(
        "Statistics of an epoch's reads, each counted as often as its sample was drawn; fresh: only the first read of "
        "each sample. Also the bytes that the cache holds, and those written to disk since the start.",
        epoch=int, reads=int, hit_ratio=float, fresh_hit_ratio=float, distinct_samples=int, effective_samples=int,
        fetched_samples=int, fetched_bytes=int, wait_s=float, memory_bytes=int, disk_bytes=int, written_bytes=int,
        corrupt=int,
    ),
    "cache.recreated": event(
        "The cache's file is damaged, foreign or of another stream; it is recreated empty.", reason=str
    ),
    "cache.unusable": event(
        "The node's cache folder cannot be written. An edge's cache is in memory alone then, and what was measured "
        "here or proven of models is so again at the next start.", folder=str, reason=str,
    ),
    "cache.disk_full": event(
        "The disk takes no entries; the cache continues with what it has, and retries at intervals.", err=str
    ),
    "cache.disk_recovered": event("The disk takes entries again."),
    "cache.write_budget": event(
        "The daily budget of bytes written to disk is spent; new entries stay in memory until there is more.",
        budget_bytes_a_day=int, written_bytes=int,
    ),
    "cache.close_failed": event("The cache's last writes are lost; the samples are fetched again.", err=str),
    # kernels: what computes a model's layers
    "kernels.loaded": event(
        "Compiled kernels compute, where the topology does not ask for numpy. Instructions: those that they use.",
        backend=str, instructions=str,
    ),
    "kernels.left_out": event(
        "Compiled kernels for newer instructions, which would be faster here, are not used: why, and what to do about "
        "it. The next ones are looked at.", reason=str,
    ),
    "kernels.unavailable": event(
        "No compiled kernels can be used, why, and what to do about it: this backend computes instead, slower.",
        backend=str, reason=str,
    ),
    # train
    "train.started": _of_job(
        "Training begins or resumes. Mini-batches are split over lanes (threads) and into micro-batches. Backend: what "
        "computes the layers, numpy or compiled kernels.",
        source=str, epoch=int, step=int, resumed=bool, lanes=int, micro_batch=int, backend=str,
    ),
    "train.backend": _of_job(
        "From this step on another backend than before computes the layers, which changes the last bits. In mid-epoch, "
        "and then as a warning, only where the one before is not here any more.",
        epoch=int, step=int, backend=str, former=str,
    ),
    "train.live_rewound": _of_job(
        "The edge's archive topic is another log than when the trainer's live position was taken: live training goes on"
        " at its beginning.",
        wanted_offset=int, next_offset=int,
    ),
    "train.epoch": _of_job(
        "An epoch has ended. Training loss and accuracy are means over the epoch while the weights changed; "
        "samples per second include waiting. Wait fraction: the share of the time waited for data; blocked fraction: "
        "the share in which the lanes' threads were blocked, whatever for, by the kernel's count; null where that "
        "cannot be read. Anomaly threshold, of an autoencoder: the 99th percentile of the test "
        "losses.",
        optional=("train_accuracy", "test_loss", "test_accuracy", "anomaly_threshold"), anomaly_threshold=float,
        epoch=int, step=int, loss=float, train_accuracy=float, test_loss=float, test_accuracy=float, test_samples=int,
        samples=int, samples_per_s=float, seconds=float, wait_s=float, wait_fraction=float,
        blocked_fraction=float, decode_s=float, decode_fraction=float,
    ),
    "train.finished": _of_job("All epochs are trained.", epochs=int, step=int),
    "train.left_out": _of_job(
        "A sample is left out of training, or of a test: it cannot be decoded, its numbers are not finite or all "
        "denormal, or its loss is not finite while those of others of its mini-batch are. `suppressed` more for that "
        "reason were not logged.",
        address=str, reason=str, detail=str, suppressed=int,
    ),
    "train.diverged": _of_job(
        "Loss or weights are no longer finite, or the loss explodes: training rolls back to the last checkpoint, in a "
        "group to the beginning of an epoch, and continues with half the learning rate; after too many times in a row "
        "it stops. Suspect: the sample with the largest loss since that checkpoint; of an edge alone.",
        optional=("suspect",), suspect=str,
        epoch=int, step=int, restored_step=int, slowdowns=int, goes_on=bool,
    ),
    # exchange: several edges train one model
    "exchange.joined": _of_job(
        "The node takes part in the group, from this offset of its log on.",
        optional=("epoch",), epoch=int, step=int, offset=int, members=list,
    ),
    "exchange.left": _of_job("The node leaves the group: it stops, or all is trained.", epoch=int, step=int),
    "exchange.begun": _of_job(
        "An epoch of the group begins, with each member's share of the global batch. Edge: the accepted proposer. "
        "Backend: what its gradients are computed by.",
        epoch=int, step=int, steps=int, shares=dict, edge=str, weights=str, backend=str,
    ),
    "exchange.held_back": _of_job(
        "The epoch's gradients are computed by a backend that all its members have, not by this node's own, because of "
        "these edges.",
        epoch=int, step=int, backend=str, own=str, edges=list,
    ),
    "exchange.left_out": _of_job(
        "The epoch's gradients are computed by a backend that this node does not have, as after an upgrade, or without "
        "its kernels: it follows the others, and takes part again from the next epoch on.",
        epoch=int, step=int, backend=str, own=str,
    ),
    "exchange.serving": _of_job("The parameter server combines gradients from this offset on.", step=int, offset=int),
    "exchange.withheld": _of_job(
        "The member contributes nothing to this step or test: its numbers are not finite.",
        epoch=int, step=int, reason=str,
    ),
    "exchange.closed": _of_job(
        "A step was closed by a deadline or without an expected member; `suppressed` more since the last line.",
        optional=("edge",), edge=str,
        epoch=int, step=int, contributions=int, missing=list, waited_s=float, deadline_s=float, suppressed=int,
    ),
    "exchange.absent": _of_job(
        "A member of the epoch is no longer expected. Reason: silent (it missed two steps), left, or started anew (it "
        "restarted and has to catch up).",
        edge=str, epoch=int, step=int, reason=str,
    ),
    "exchange.awaited": _of_job(
        "A member of the epoch that was absent is expected again.", edge=str, epoch=int, step=int
    ),
    "exchange.abandoned": _of_job(
        "No member of the epoch contributes any more; those who have joined since continue with the next epoch.",
        epoch=int, step=int, steps_left=int,
    ),
    "exchange.caught_up": _of_job(
        "The steps that the group has made meanwhile are applied here, from its log.",
        epoch=int, step=int, steps=int, first_offset=int, next_offset=int, seconds=float,
    ),
    "exchange.late": _of_job(
        "A gradient arrived after its step was closed; its sender adds it to the next one. `suppressed` more since the "
        "last line.",
        edge=str, step=int, present_step=int, suppressed=int,
    ),
    "exchange.rejected": _of_job(
        "A record of the group's log cannot be used and is ignored; `suppressed` more since the last line.",
        optional=("edge",), edge=str, topic=str, offset=int, reason=str, suppressed=int,
    ),
    "exchange.epoch": _of_job(
        "Statistics of the group's epoch, as far as this node folded its log. Bytes: sent and received, compressed. "
        "Communication: the share of a step's time spent waiting for the group. Advice: a suitable compression or "
        "sync_every; both only from a node that computed in the epoch.",
        optional=("step_ms", "comm_fraction", "advice"),
        epoch=int, step=int, steps=int, members=list, weights=str, contributions=int, missed=int, late=int,
        bytes_per_step=float, step_ms=float, comm_fraction=float, advice=str,
    ),
    "exchange.diverged": _of_job(
        "The weights here differ from those of most members, such as `edge`; a published checkpoint replaces them.",
        epoch=int, step=int, weights=str, expected_weights=str, edge=str,
    ),
    "exchange.log_lost": _of_job(
        "The log no longer reaches back to this node's offset: a member needs the group's published checkpoint, the "
        "parameter server continues where the log begins.",
        topic=str, wanted_offset=int, first_offset=int,
    ),
    "exchange.announced": _of_job(
        "The group's checkpoint is in Kafka, for members that return or are new.",
        generation=int, epoch=int, parts=int, bytes=int, ms=float,
    ),
    "exchange.offered": _of_job(
        "The group's log is lost, and no published checkpoint can be resumed from: this node offers its newest state "
        "to all.",
        generation=int, epoch=int, offset=int,
    ),
    "exchange.adopted": _of_job(
        "The node resumes from the checkpoint that a member published or offered, from this offset of the log on.",
        generation=int, epoch=int, offset=int,
    ),
    "exchange.set_back": _of_job(
        "The node resumes from an older state than its own: `steps` steps of the group are lost.",
        step=int, adopted_step=int, steps=int,
    ),
    # checkpoint
    "checkpoint.saved": _of_job("A checkpoint is durable.", generation=int, bytes=int, ms=float),
    "checkpoint.restored": _of_job("Training resumes from a checkpoint.", generation=int, epoch=int, bytes=int),
    "checkpoint.skipped": _of_job(
        'A checkpoint is torn or altered, and kept aside under another name ("" if that fails); the next one is tried.',
        generation=int, err=str, kept_as=str,
    ),
    "checkpoint.none_usable": _of_job(
        "No checkpoint can be used, and training begins again. All are kept aside in the folder; `err`: of the newest.",
        folder=str, kept_as=list, err=str,
    ),
    "checkpoint.failed": _of_job(
        "A checkpoint or model could not be written; training continues and retries. `suppressed` more since the last "
        "such line.",
        generation=int, err=str, suppressed=int,
    ),
    "checkpoint.made_room": _of_job(
        "The disk is full: the oldest checkpoint or model that was kept has made room for the next one. `suppressed` "
        "more since the last such line.",
        file=str, err=str, suppressed=int,
    ),
    "checkpoint.deployed": _of_job(
        "A model is ready for the companion. Format: float32 or int8; an int8 one needs samples to calibrate by.",
        generation=int, format=str, bytes=int, ms=float,
    ),
    "checkpoint.model_skipped": _of_job(
        "A deployed model is torn or altered. `suppressed` more since its last such line.",
        generation=int, err=str, suppressed=int,
    ),
    # infer
    "infer.runtime": event(
        "The runtime of model files in this process. Problem: why it is numpy and not a faster runtime.",
        optional=("problem",), runtime=str, version=str, delegate=str, problem=str,
    ),
    "infer.waiting": event("There is no model yet; the records wait in Kafka."),
    "infer.model_loaded": event(
        "This model serves from now on; tries: how often it was opened for that.",
        generation=int, runtime=str, model_bytes=int, load_ms=float, tries=int,
    ),
    "infer.model_refused": event(
        "The model cannot serve, and stays where it is: the one before it serves. `the probe ended with` a signal: a "
        "child process, in which each model runs first, did not survive it.",
        generation=int, reason=str, tries=int,
    ),
    "infer.model_unproven": event(
        "The model could not be tried out now (no process, no memory, no time). It is tried again, after pauses from "
        "seconds to 5 minutes; the one before it serves meanwhile. Said once.",
        generation=int, reason=str,
    ),
    "infer.recovered": event(
        "Predictions published before a restart whose offsets were not committed; they are not repeated.",
        predictions=int,
    ),
    "infer.predicted": event(
        "Predictions since the last such line; every 10 s, of a service once a minute, if there are any, and at the "
        "end. Skipped: records that ingest dead-letters. Correct: of those with a label, the ones predicted so. "
        "Anomalous, with an autoencoder: above its threshold. Latency: from arrival at the broker; null, and in "
        "without_latency, where the clocks of broker and edge make it negative or longer than a day.",
        optional=("anomalous",), anomalous=int, without_latency=int,
        generation=int, samples=int, skipped=int, labelled=int, correct=int, samples_per_s=float,
        latency_p50_ms=float, latency_p95_ms=float, compute_ms=float,
    ),
    # mqtt: predictions to devices
    "mqtt.delivered": event(
        "Predictions that the MQTT broker has taken for devices since the last such line, those that were too old to "
        "be sent, those that it refuses, and devices that take none now: nobody subscribes to their predictions. "
        "Skipped: records of all devices that were too old, and were not read.",
        predictions=int, expired=int, refused=int, skipped=int, without_receiver=int,
    ),
    "mqtt.no_receiver": event(
        "Nobody subscribes to a device's predictions: they are kept in Kafka, and sent for an hour once somebody does. "
        "`suppressed` more for this device since its last such line.", device=str, suppressed=int,
    ),
    "mqtt.receiver_back": event(
        "Somebody subscribes to a device's predictions again. `suppressed` more for this device since its last such "
        "line.", device=str, suppressed=int,
    ),
    "mqtt.receivers_unknown": event(
        "The MQTT broker speaks 3.1.1 and does not say whether anybody subscribes: predictions for a device that has "
        "no session with it are lost.",
    ),
    "mqtt.prediction_expired": event(
        "Predictions for a device were older than an hour, and were not sent.", device=str, predictions=int
    ),
    "mqtt.prediction_refused": event(
        "The MQTT broker refuses a prediction for a device again, and has taken one behind it: it is given up. "
        "`suppressed` more for this device since its last such line.", device=str, reason=str, suppressed=int,
    ),
    "mqtt.response_topic_ignored": event(
        "A device asks for its prediction at a topic that is not below its own: it gets it at its own. `suppressed` "
        "more for this device since its last such line.", device=str, topic=str, suppressed=int,
    ),
    # archive
    "archive.flushed": event(
        "Files of the archive have become durable since the source's last such line, of which there is one as often as "
        "of `res.sample`. Write_ms: the longest took.",
        stream=str, source=str, first_offset=int, next_offset=int, files=int, samples=int, bytes=int, write_ms=float,
    ),
    "archive.rejected": event(
        "A record of an archive topic is not a pack; an empty block takes its place. Kept_as: where in the archive it "
        'is kept, "" when enough are. `suppressed` more of the topic since its last such line.',
        topic=str, offset=int, reason=str, kept_as=str, suppressed=int,
    ),
    "archive.passed": event(
        "A record that held its source up (`reason`) is passed, as its block is in quarantine. Kept_as: where in the "
        "archive the record is kept.",
        address=str, reason=str, kept_as=str,
    ),
    "archive.refused": event(
        "Samples of a block break the rule of a border, by what this node's topology says: they are left out, the rest "
        "of the block is kept. Address: the first of them, by its place in the source's topic, and by its device's. "
        "Reasons: how many for each. `suppressed` more lines of the source were not logged.",
        address=str, device=str, samples=int, reasons=dict, detail=str, suppressed=int,
    ),
    "archive.unknown_label": event(
        "Samples were archived with a label that this node's topology does not have: unlabelled to whoever trains by "
        "it. Address: of the first. Of `suppressed` more blocks of the source, too, since its last such line.",
        address=str, label=str, samples=int, suppressed=int,
    ),
    "archive.duplicates": event(
        "Samples that were already archived were left out of a pack; of `suppressed` more packs of the source, too, "
        "since its last such line.",
        stream=str, source=str, offset=int, samples=int, suppressed=int,
    ),
    "archive.gap": event(
        "The log deleted packs before they were archived; the archive records the gap. `suppressed` more of the source "
        "since its last such line.",
        stream=str, source=str, first_offset=int, next_offset=int, suppressed=int,
    ),
    "archive.damaged": event(
        "A source's newest file is damaged. If the log still has its packs they are archived again, and the file is "
        "kept under another name; else the source continues after it, and the file's blocks are missing until it is "
        "restored.",
        stream=str, source=str, first_offset=int, next_offset=int, reason=str, archived_again=bool,
    ),
    "archive.assigned": event(
        "Partitions of archive topics and of requests that this node, one of several, works on from now on; `omitted` "
        "more. Held: how many it has now.", optional=("omitted",), partitions=list, omitted=int, held=int,
    ),
    "archive.revoked": event(
        "Partitions that are another archive node's now; `omitted` more. What was read of them and is in no file yet "
        "is read again there. Held: how many this node still has.",
        optional=("omitted",), partitions=list, omitted=int, held=int,
    ),
    "archive.overtaken": event(
        "Another archive node has archived what this one was about to: it goes on behind that. Usual when a source has "
        "just changed hands.", stream=str, source=str, reason=str,
    ),
    "archive.source_failed": event(
        "Archiving a source failed in a way that edged does not know; the source is tried again, the others go on.",
        stream=str, source=str, err=str, traceback=str,
    ),
    "archive.forgotten": event(
        "The oldest files of a source count no more, by `age`, by `size`, or because the disk is `full`: then they are "
        "deleted at once, else after a day. First offset: of what is left. Oldest: since when its oldest file is "
        "there, where that is known.", optional=("oldest_ms",),
        stream=str, source=str, why=str, samples=int, files=int, bytes=int, first_offset=int, oldest_ms=int,
    ),
    "archive.deleted": event(
        "Files of what was forgotten are gone.", stream=str, source=str, files=int, bytes=int,
    ),
    "archive.trimmed": event(
        "Archived packs were deleted from Kafka.", stream=str, source=str, first_offset=int, next_offset=int,
    ),
    "archive.unreadable": event(
        "A file or a block of the archive cannot be read; `suppressed` more of the source since its last such line.",
        stream=str, source=str, reason=str, suppressed=int,
    ),
    "archive.place": event(
        "What people should know of the place where the archive is, found out by trying it before the first file.",
        place=str, reason=str,
    ),
    "archive.absent": event(
        "An edge asked for blocks that no file holds, such as this one; `suppressed` more of its requests did since "
        "the last such line.",
        edge=str, request=str, stream=str, source=str, offset=int, blocks=int, suppressed=int,
    ),
    "archive.bad_request": event(
        "A request to the archive was dropped; `suppressed` more of the edge since its last such line. Edge: absent "
        "when the request does not name one of the topology.",
        optional=("edge",), edge=str, offset=int, reason=str, suppressed=int,
    ),
    "archive.served": event(
        "A request was answered; `suppressed` more of the edge since its last such line.",
        edge=str, request=str, stream=str, samples=int, missing=int, parts=int, bytes=int, turns=int, serve_ms=float,
        suppressed=int,
    ),
    "archive.unanswered": event(
        "A request was dropped because it could not be served; its edge asks again. `suppressed` more of the edge "
        "since its last such line. Traceback: of a failure that edged does not know.",
        optional=("traceback",), edge=str, request=str, reason=str, suppressed=int, traceback=str,
    ),
    # sensor
    "sensor.opened": event(
        "The data set to replay. Unlabelled: items that are published without a label. Left_out: for each reason how "
        "many files or rows were left out, and the first ones.",
        dataset=str, split=str, items=int, unlabelled=int, left_out=list,
    ),
    "sensor.left_out": event(
        "A file or row was not published, and why; the next one takes its place. `suppressed` more for this reason "
        "since its last such line.",
        item=str, reason=str, detail=str, suppressed=int,
    ),
    "sensor.published": event(
        "Samples that a replayed device has published so far, all acknowledged; every 10 s and at the end. Left_out: "
        "files or rows of the data set that could not be.",
        dataset=str, samples=int, payload_bytes=int, elapsed_s=float, samples_per_s=float, left_out=int,
    ),
    "sensor.prediction_skipped": event(
        "A message in the predictions topic is not a prediction; `suppressed` more since the last such line. Partition "
        "and offset: in Kafka.",
        optional=("partition", "offset"), partition=int, offset=int, reason=str, suppressed=int,
    ),
    "sensor.predictions_dropped": event(
        "A device that takes no predictions has more than it keeps of them: the oldest are dropped. Total: since the "
        "start. `suppressed` more such lines.", total=int, suppressed=int,
    ),
    "sensor.unsendable": event(
        "The MQTT broker does not take a device's sample, or no edge takes it from the broker; it is tried again. "
        "`suppressed` more such lines.", sample_id=str, reason=str, suppressed=int,
    ),
    "sensor.unanswered": event(
        "The MQTT broker takes a device's samples, and its edge has sent no receipt for so long: it does not run, or "
        "does not reach Kafka, or has a file without this device. Samples: without a receipt, of those on their way. "
        "The first is sent again. `suppressed` more such lines.",
        edge=str, samples=int, silence_s=float, suppressed=int,
    ),
    # buffer: a device's samples on its own disk
    "buffer.opened": event(
        "The samples that an earlier run has left without a receipt. Foreign: other files in the folder, left alone.",
        folder=str, samples=int, num_bytes=int, foreign=int,
    ),
    "buffer.torn": event(
        "A crash left the end of a write, which was cut off: no `publish` had returned for it. Cursor lost: it cannot "
        "be read, so all samples are sent again.", folder=str, torn_bytes=int, cursor_lost=bool,
    ),
    "buffer.damaged": event(
        "Samples that cannot be read any more, and are passed; in total since the start. `suppressed` more such lines.",
        folder=str, samples=int, total=int, suppressed=int,
    ),
    "buffer.dropped": event(
        "Samples that were removed before their receipt: `full` and `disk_full`: to make room, `age`: they are older "
        "than the buffer keeps any. In total since the start. `suppressed` more such lines.",
        folder=str, samples=int, total=int, reason=str, suppressed=int,
    ),
    "buffer.refused": event(
        "The edge refuses a sample for good, and has put it with the dead letters; or the MQTT broker does, and takes "
        "those behind it, which wait; or Kafka's topic takes none of its size. It is not sent again. Total: since "
        "the start. `suppressed` more such lines for this reason.",
        sample_id=str, reason=str, total=int, suppressed=int,
    ),
    "buffer.stuck": event(
        "A file of the buffer cannot be read, deleted or replaced now; it is tried again. `suppressed` more.",
        folder=str, file=str, err=str, suppressed=int,
    ),
    # res: the host's and the process's resources
    "res.sample": event(
        "The monitor's series, once per second; of a service once a minute, as the journal is on the disk; or as often "
        "as the topology's `log.resources` says. CPU in percent of one core, summed over cores. Fields that the host "
        "does not provide are left out, as are the node's numbers that have been zero since the start. Lag by topic: "
        "the longest ones; absent when there is none. Held partitions: of one of several archive nodes. Blocked "
        "fraction, of a node that trains: see `train.epoch`. Loop lag: the most by which the event loop was late.",
        optional=(
            "cpu_percent", "memory_used_bytes", "disk_read_bytes_per_s", "disk_written_bytes_per_s",
            "net_received_bytes_per_s", "net_sent_bytes_per_s", "temperature_c", "throttled_flags", "disk_free_bytes",
            "trained_samples_per_s", "wait_fraction", "blocked_fraction",
            "bridged_records_per_s", "ingested_samples_per_s", "dead_lettered_per_s",
            "archived_samples_per_s", "predicted_samples_per_s", "served_samples_per_s",
            "refused_samples", "lag_records", "lag_by_topic", "queue_bytes", "cache_bytes", "kept_bytes",
            "held_partitions",
        ),
        cpu_percent=float, process_cpu_percent=float, memory_used_bytes=int, rss_bytes=int, peak_rss_bytes=int,
        disk_read_bytes_per_s=float, disk_written_bytes_per_s=float,
        net_received_bytes_per_s=float, net_sent_bytes_per_s=float,
        temperature_c=float, throttled_flags=int, disk_free_bytes=int, loop_lag_ms=float,
        trained_samples_per_s=float, wait_fraction=float, blocked_fraction=float,
        bridged_records_per_s=float, ingested_samples_per_s=float, dead_lettered_per_s=float,
        archived_samples_per_s=float, predicted_samples_per_s=float, served_samples_per_s=float,
        refused_samples=int, lag_records=int, lag_by_topic=dict, queue_bytes=int, cache_bytes=int, kept_bytes=int,
        held_partitions=int,
    ),
    "res.memory_high": event(
        "The process exceeds its memory limit; it ends if that lasts.", rss_bytes=int, limit_bytes=int
    ),
    "res.priority_refused": event(
        "Threads that compute do not get a lower priority, and compete with the event loop as equals. The unit's "
        "`SystemCallFilter=` has to allow setpriority. Logged once.",
        niceness=int, err=str,
    ),
    "res.stalled": event(
        "A service with work makes no progress, without an external cause; the watchdog is no longer fed.",
        service=str, still_s=float,
    ),
    # log: foreign code's messages through the standard library
    "log.foreign": event(
        "A warning or an error of a library or of Python; `suppressed` similar ones before it were not logged.",
        optional=("suppressed", "traceback"), logger=str, message=str, suppressed=int, traceback=str,
    ),
}  # fmt: skip


def json_type_matches(value: Any, kind: type) -> bool:
    """Whether a plain JSON value has the type that the schema requires for `kind`."""
    if kind is float:
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one log line."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One line of edged's log",
        "oneOf": [_line_schema(name, spec) for name, spec in sorted(EVENTS.items())],
    }


def _line_schema(name: str, spec: Event) -> dict[str, Any]:
    properties: dict[str, Any] = {key: {"type": _JSON_TYPE[kind]} for key, kind in COMMON.items()}
    properties["event"] = {"const": name}
    properties |= {key: {"type": _JSON_TYPE[kind]} for key, kind in spec.fields.items()}
    return {
        "description": spec.doc,
        "type": "object",
        "properties": properties,
        "required": [*COMMON, *(key for key in spec.fields if key not in spec.optional)],
        "additionalProperties": False,
    }
