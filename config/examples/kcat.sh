#!/bin/sh
# A photo by Kafka, from a shell: as a sample with its label, when it was taken, and a name that its prediction has, too.
#     kcat.sh FILE LABEL             with BROKER, PORT, SITE and DEVICE in the environment; a login goes into ~/.config/kcat.conf
set -eu
kcat -P -b "$BROKER:$PORT" -t "$SITE.iot.$DEVICE" -k "$2" \
    -H "edged-sampled-ms=$(date +%s000)" -H "edged-sample-id=$(date +%s)-$$" "$1"
