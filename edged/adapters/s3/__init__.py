"""The archive's objects in a bucket of S3, or of any store that speaks it and honours If-None-Match, by obstore.

Belongs here: its client, and what its errors mean. Does not: what all kinds of stores have in common
(`adapters.objects`).
"""

from edged.adapters.s3.backend import s3_store

__all__ = ["s3_store"]
