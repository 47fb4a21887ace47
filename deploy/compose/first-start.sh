#!/bin/sh
# Makes certificates, users, ACL and the database's password at the first start; later ones keep them all.
set -eu
umask 077
cd /identities

fieldpost broker init --dir . --host broker --host localhost --host 127.0.0.1 --controllers 2 \
    --node gw-1 --node gw-2 --bus-read 'devices/{node}/#' --bus-write 'fleet/{node}/#' \
    --broker-at /mosquitto/config --data-at /mosquitto/data --clients-at /etc/fieldpost
for node in gw-1 gw-2; do
    fieldpost broker users add "$node-machine" --dir . --write "devices/$node/#"
done

# Mosquitto reads these at its start; the database's password is for its first start and for the controllers.
if [ ! -s store/pgpass ]; then
    password="$(python -c 'import secrets; print(secrets.token_urlsafe(32))')"
    printf '%s' "$password" >store/password
    printf 'postgres:5432:fieldpost:fieldpost:%s\n' "$password" >store/.pgpass.new
    mv store/.pgpass.new store/pgpass
fi
