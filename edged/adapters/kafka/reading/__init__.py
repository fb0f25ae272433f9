"""Reading: from fetched batches to records, from places to positions.

Belongs here: the reader, what it decodes, what it passes by, whose log it reads. Does not: connections, requests with
one small answer, writing.
"""
