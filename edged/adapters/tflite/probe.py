"""The child process in which `tflite` proves the TFLite runtime, and a file if one comes by stdin.

Prints the runtime's name and version, or dies.
"""

import json
import sys

from edged.adapters.tflite.runtime import check_features, check_runtime

if __name__ == "__main__":
    name, version = check_runtime()
    if content := sys.stdin.buffer.read():
        check_features(content)
    sys.stdout.write(json.dumps({"name": name, "version": version}))
