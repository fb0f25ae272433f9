"""Lists and maps in the text metadata of a tensor blob, as JSON, checked on the way in."""
