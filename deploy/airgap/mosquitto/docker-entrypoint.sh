#!/bin/sh
# As root, gives the broker's files to its user; Mosquitto then leaves root itself. As anybody else, just runs it.
set -e
if [ "$(id -u)" = 0 ]; then
    chown -R mosquitto:mosquitto /mosquitto 2>/dev/null || :
fi
exec "$@"
