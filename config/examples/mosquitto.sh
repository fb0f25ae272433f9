#!/bin/sh
# A photo by MQTT, from a shell: a sample with its label, sent again until edged says that Kafka holds it.
# In the topology the device has `transport: mqtt` and `id: text`: by the id edged knows what it has already.
#     mosquitto.sh FILE LABEL        with BROKER, PORT, SITE and DEVICE in the environment, and PASSWORD, where it has one
set -u
id=$(date +%s)-$$
receipt=$(mktemp)
trap 'rm -f "$receipt"' EXIT
until grep -q "^$id" "$receipt"; do
    mosquitto_sub -h "$BROKER" -p "$PORT" -V mqttv5 -q 1 -t "$SITE/receipts/$DEVICE" -C 1 -W 10 \
        ${PASSWORD:+-u "$DEVICE" -P "$PASSWORD"} > "$receipt" &
    sleep 1 # it has subscribed by then
    mosquitto_pub -h "$BROKER" -p "$PORT" -V mqttv5 -q 1 -t "$SITE/iot/$DEVICE" -f "$1" \
        -D publish user-property label "$2" -D publish user-property id "$id" -D publish user-property receipt yes \
        ${PASSWORD:+-u "$DEVICE" -P "$PASSWORD"}
    wait
done
grep -qx "$id" "$receipt" || { cat "$receipt" >&2; exit 1; } # refused for good, with the reason
