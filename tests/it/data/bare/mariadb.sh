#!/bin/sh
# MariaDB of the machine that tests run on, with this root's files: its programs see that machine's /usr, and else this root.
SOCKET=@SOCKET@
PID=/run/mysqld/mysqld.pid

of_machine() {
    unshare -m sh -c 'mount --bind /host/usr /usr && cd / && exec "$@"' sh "$@"
}

# The unit makes the data where there is none.
prepare() {
    [ -d /var/lib/mysql/mysql ] || of_machine /usr/bin/mariadb-install-db --user=mysql --datadir=/var/lib/mysql \
        --auth-root-authentication-method=socket --skip-test-db
}

case "$1" in
    start)
        prepare || exit 1
        mkdir -p /run/mysqld && chown mysql:mysql /run/mysqld && rm -f "$SOCKET"
        of_machine /usr/sbin/mariadbd --user=mysql --datadir=/var/lib/mysql --socket="$SOCKET" --pid-file="$PID" \
            --innodb-buffer-pool-size=16M --innodb-flush-log-at-trx-commit=0 < /dev/null >> /var/log/mariadb.log 2>&1 &
        for _ in $(seq 300); do
            [ -S "$SOCKET" ] && [ -s "$PID" ] && exit 0
            sleep 0.1
        done
        exit 1 ;;
    stop)
        pid=$(cat "$PID") && kill "$pid" || exit 1
        for _ in $(seq 300); do
            kill -0 "$pid" 2> /dev/null || { rm -f "$PID"; exit 0; }
            sleep 0.1
        done
        exit 1 ;;
    status) pid=$(cat "$PID") && kill -0 "$pid" ;;
esac
