"""The child process in which `runtime` tests the TFLite runtime, and a model file if stdin holds one.

Prints the runtime's name and version, or crashes.
"""

import json
import sys

from edged.adapters.tflite.runtime import check_features, check_runtime

if __name__ == "__main__":
    name, version = check_runtime()
    if content := sys.stdin.buffer.read():
        check_features(content)
    sys.stdout.write(json.dumps({"name": name, "version": version}))
