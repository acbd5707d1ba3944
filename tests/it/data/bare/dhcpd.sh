#!/bin/sh
# ISC dhcpd by Debian's own script. Whether it runs, systemd knows of the process.
case "$1" in
    status) [ -s /run/dhcpd.pid ] && kill -0 "$(cat /run/dhcpd.pid)" ;;
    *) exec /etc/init.d/isc-dhcp-server "$1" ;;
esac
