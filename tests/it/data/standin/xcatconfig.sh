#!/bin/sh
# Stand-in of xcatconfig: makes a management node of a host. An authority, a certificate, root's keys and tables that are
# there already stay; the keys of the nodes' hosts are made anew whatever is there.
ROOT="$STANDIN_ROOT"
. "$ROOT/opt/xcat/lib/standin/common.sh"
log_call xcatconfig "$@"

host=$(cat "$ROOT/etc/hostname" 2> /dev/null || echo localhost)
short=${host%%.*}
domain=${host#"$short"}; domain=${domain#.}
address=$(awk -v host="$host" -v short="$short" '{ for (i = 2; i <= NF; i++) if ($i == host || $i == short) { print $1; exit } }' \
    "$ROOT/etc/hosts" 2> /dev/null)

make_authority() {
    ca="$CONFIG/ca"
    mkdir -p "$ca/private" "$ca/certs" "$ca/crl"
    chmod 700 "$ca" "$ca/private"
    pem "RSA PRIVATE KEY" > "$ca/private/ca-key.pem"
    pem CERTIFICATE > "$ca/ca-cert.pem"
    : > "$ca/index"
    echo 01 > "$ca/serial"
    echo "# the authority's own configuration" > "$ca/openssl.cnf"
    chmod 600 "$ca/private/ca-key.pem"
}

# Signs a certificate of the given name: prints it, and enters it into the index.
sign() {
    serial=$(cat "$CONFIG/ca/serial")
    pem CERTIFICATE > "$CONFIG/ca/certs/$serial.pem"
    printf 'V\t330101000000Z\t\t%s\tunknown\t/CN=%s\n' "$serial" "$1" >> "$CONFIG/ca/index"
    printf '%02d\n' $((${serial#0} + 1)) > "$CONFIG/ca/serial"
    cat "$CONFIG/ca/certs/$serial.pem"
}

make_server_cert() {
    mkdir -p "$CONFIG/cert"
    chmod 700 "$CONFIG/cert"
    pem "RSA PRIVATE KEY" > "$CONFIG/cert/server-key.pem"
    sign "$host" > "$CONFIG/cert/server-cert.pem"
    cat "$CONFIG/cert/server-cert.pem" "$CONFIG/cert/server-key.pem" > "$CONFIG/cert/server-cred.pem"
    cp "$CONFIG/ca/ca-cert.pem" "$CONFIG/cert/ca.pem"
    cp "$CONFIG/cert/server-cert.pem" "$CONFIG/ca/$host.cert"
    chmod 600 "$CONFIG"/cert/*
}

# A client's credential: name of the certificate, home.
make_client() {
    mkdir -p "$ROOT$2/.xcat"
    pem "RSA PRIVATE KEY" > "$ROOT$2/.xcat/client-key.pem"
    sign "$1" > "$ROOT$2/.xcat/client-cert.pem"
    cat "$ROOT$2/.xcat/client-cert.pem" "$ROOT$2/.xcat/client-key.pem" > "$ROOT$2/.xcat/client-cred.pem"
    cp "$CONFIG/ca/ca-cert.pem" "$ROOT$2/.xcat/ca.pem"
    chmod 700 "$ROOT$2/.xcat"
    chmod 600 "$ROOT$2"/.xcat/*
}

make_root_keys() {
    mkdir -p "$ROOT/root/.ssh"
    chmod 700 "$ROOT/root/.ssh"
    pem "OPENSSH PRIVATE KEY" > "$ROOT/root/.ssh/id_rsa"
    echo "ssh-rsa $(head -c 48 /dev/urandom | base64 | tr -d '\n') root@$short" > "$ROOT/root/.ssh/id_rsa.pub"
    cat "$ROOT/root/.ssh/id_rsa.pub" >> "$ROOT/root/.ssh/authorized_keys"
    chmod 600 "$ROOT/root/.ssh/id_rsa" "$ROOT/root/.ssh/authorized_keys"
}

make_host_keys() {
    mkdir -p "$CONFIG/hostkeys"
    for kind in rsa ecdsa ed25519; do
        pem "OPENSSH PRIVATE KEY" > "$CONFIG/hostkeys/ssh_host_${kind}_key"
        echo "ssh-$kind $(head -c 48 /dev/urandom | base64 | tr -d '\n') node" > "$CONFIG/hostkeys/ssh_host_${kind}_key.pub"
        chmod 640 "$CONFIG/hostkeys/ssh_host_${kind}_key"
    done
}

# What nodes fetch: copies of what was just made.
publish() {
    post="$ROOT/install/postscripts"
    mkdir -p "$post/_ssh" "$post/hostkeys" "$post/ca" "$post/_xcat"
    cp "$ROOT/root/.ssh/id_rsa.pub" "$post/_ssh/authorized_keys"
    cp "$CONFIG"/hostkeys/*.pub "$post/hostkeys/"
    cp "$CONFIG/ca/ca-cert.pem" "$post/ca/ca-cert.pem"
    cp "$ROOT/root/.xcat/ca.pem" "$post/_xcat/ca.pem"
    mkdir -p "$ROOT/tftpboot/xcat/xnba/nodes" "$ROOT/tftpboot/pxelinux.cfg" "$ROOT/install/custom" "$ROOT/install/autoinst"
}

add_user() {
    grep -q "^$1:" "$ROOT/etc/passwd" && return
    echo "$1:x:$2:$2::$3:/bin/false" >> "$ROOT/etc/passwd"
    echo "$1:x:$2:" >> "$ROOT/etc/group"
    mkdir -p "$ROOT$3"
}

export_folder() {
    grep -q "^$1 " "$ROOT/etc/exports" 2> /dev/null || echo "$1 *(rw,no_root_squash,sync,no_subtree_check)" >> "$ROOT/etc/exports"
}

default_rows() {
    put_row site master "${address:-NORESOLUTION}"
    put_row site domain "${domain:-cluster.test}"
    put_row site installdir /install
    put_row site tftpdir /tftpboot
    put_row site nameservers "${address:-NORESOLUTION}"
    put_row site xcatdport 3001
    put_row policy 1 root "" "" "" "" "" allow
    put_row policy 1.2 "$host" "" "" "" "" "" trusted
    put_row policy 2 "" "" getbmcconfig "" "" "" allow
    put_row policy 4.4 "" "" getpostscript "" "" "" allow
    put_row postscripts xcatdefaults syslog,remoteshell,syncfiles otherpkgs
    put_row postscripts service servicenode
    put_row passwd omapi xcat_key "$(head -c 24 /dev/urandom | base64)"
    put_row passwd system root cluster
}

install_node() {
    is_new=""
    [ -f "$CONFIG/site.sqlite" ] || [ -f "$CONFIG/cfgloc" ] || is_new=1
    mkdir -p "$CONFIG"
    for table in $(tables); do make_table "$table"; done
    add_user conserver 990 /home/conserver
    # As the scripts of services do: no package owns it.
    mkdir -p "$ROOT/var/lib/conserver" && chown 990:990 "$ROOT/var/lib/conserver"
    [ -f "$CONFIG/ca/private/ca-key.pem" ] || make_authority
    [ -f "$CONFIG/cert/server-cert.pem" ] || make_server_cert
    [ -f "$ROOT/root/.ssh/id_rsa" ] || make_root_keys
    [ -f "$ROOT/root/.xcat/client-cert.pem" ] || make_client root /root
    [ -f "$ROOT/home/conserver/.xcat/client-cert.pem" ] || make_client conserver /home/conserver
    make_host_keys
    [ -n "$is_new" ] && default_rows
    publish
    export_folder /tftpboot
    export_folder /install
    mkdir -p "$ROOT/etc/sysctl.d" "$ROOT/etc/sysconfig"
    echo "net.ipv4.ip_forward = 1" > "$ROOT/etc/sysctl.d/99-xcat.conf"
    "$ROOT/opt/xcat/sbin/xcatd" start
}

case "$1" in
    -i | -u) install_node ;;
    -s) make_host_keys; publish ;;
    -k) rm -f "$ROOT"/root/.ssh/id_rsa*; make_root_keys; publish ;;
    -c) rm -rf "$CONFIG/ca"; make_authority; make_server_cert; make_client root /root; publish ;;
    -d) default_rows ;;
    -m) put_row nodelist "$short" __mgmtnode; put_row servicenode "$short" ;;
    -t) ;;
    *) echo "Usage: xcatconfig -i|-u|-k|-s|-c|-d|-m|-t" >&2; exit 1 ;;
esac
exit 0
