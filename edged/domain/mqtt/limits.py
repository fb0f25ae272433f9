"""What an MQTT packet may be, on the site's side."""

LARGEST_ENVELOPE = 2048
"""Of a packet beside its payload: a topic with the longest names, label and id, and the properties that edged reads."""
