"""What the adapters of `ports.ObjectStore` have in common: deadlines, lost answers, manifests and the probe.

Belongs here: whatever does not depend on the kind of store. Does not: the clients (`local`, `hdfs`, `s3`).
"""
