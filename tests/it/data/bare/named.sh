#!/bin/sh
# BIND as its unit runs it: a start is over once it has loaded its zones, a stop has it write them out.
PID=/run/named/named.pid

runs() {
    [ -s "$PID" ] && kill -0 "$(cat "$PID")"
}

until_it() {
    for _ in $(seq 300); do
        "$@" 2> /dev/null && return
        sleep 0.1
    done
    return 1
}

case "$1" in
    start)
        . /etc/default/named
        mkdir -p /run/named && chown bind:bind /run/named
        # shellcheck disable=SC2086
        /usr/sbin/named -f $OPTIONS < /dev/null &
        started=$!
        ready() { ! kill -0 "$started" || rndc status > /dev/null; }
        until_it ready && kill -0 "$started" ;;
    stop)
        gone() { ! runs; }
        rndc stop && until_it gone ;;
    reload) rndc reload ;;
    status) runs ;;
esac
