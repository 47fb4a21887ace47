#!/usr/bin/env bash
# Makes stand-ins for the official Python, Mosquitto and PostgreSQL images from Debian's packages, without a registry.
# Needs root, debootstrap and a container engine. MIRROR names a Debian mirror; default: the one that apt uses here.
# Then: export PYTHON_IMAGE=fieldpost-airgap/python MOSQUITTO_IMAGE=fieldpost-airgap/mosquitto POSTGRES_IMAGE=fieldpost-airgap/postgres
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
SUITE="${SUITE:-trixie}"
MIRROR="${MIRROR:-$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' \
    | sed -n 's/^Debian|Debian|//p' | head -1)}"
[ -n "$MIRROR" ] || { echo "apt uses no Debian mirror here: name one in MIRROR" >&2; exit 1; }

if ! docker image inspect fieldpost-airgap/debian >/dev/null 2>&1; then
    place="$(mktemp -d)"
    trap 'rm -rf "$place"' EXIT
    echo "debootstrap $SUITE"
    debootstrap --variant=minbase --include=ca-certificates "$SUITE" "$place/root" "$MIRROR" >"$place/log" 2>&1 \
        || { tail -20 "$place/log" >&2; exit 1; }
    tar -C "$place/root" -c . | docker import -c 'CMD ["bash"]' - fieldpost-airgap/debian >/dev/null
fi
for name in python mosquitto postgres; do
    echo "fieldpost-airgap/$name"
    docker build --quiet --network host -t "fieldpost-airgap/$name" "$name" >/dev/null
done
