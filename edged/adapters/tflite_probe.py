"""The child process in which `tflite.probe_runtime` proves the TFLite runtime: prints its name and version, or dies."""

import json
import sys

from edged.adapters.tflite import check_runtime

if __name__ == "__main__":
    name, version = check_runtime()
    sys.stdout.write(json.dumps({"name": name, "version": version}))
