#!/bin/sh
# PostgreSQL of the machine that tests run on, with this root's files: its programs see that machine's /usr, and else this root.
DATA=@DATA@
CONFIG=@CONFIG@

as_postgres() {
    unshare -m sh -c 'mount --bind /host/usr /usr && cd / && exec /usr/bin/setpriv --reuid=postgres --regid=postgres \
        --clear-groups -- "$@"' sh "$@"
}

case "$1" in
    initdb) as_postgres @BIN@/initdb -D "$DATA" --auth-local=peer --auth-host=scram-sha-256 -E UTF8 --locale=C --no-sync ;;
    start)
        mkdir -p /run/postgresql && chown postgres:postgres /run/postgresql
        as_postgres @BIN@/pg_ctl -D "$CONFIG" -w -t 60 -l "$DATA/server.log" -o "-c fsync=off -k /run/postgresql" start ;;
    stop) as_postgres @BIN@/pg_ctl -D "$CONFIG" -w -m fast stop ;;
    reload) as_postgres @BIN@/pg_ctl -D "$CONFIG" reload ;;
    status) pid=$(head -n 1 "$DATA/postmaster.pid") && kill -0 "$pid" ;;
esac
