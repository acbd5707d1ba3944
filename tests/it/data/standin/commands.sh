#!/bin/sh
# Stand-in of the commands of a management node: which one is told by the name it is called by.
ROOT="$STANDIN_ROOT"
. "$ROOT/opt/xcat/lib/standin/common.sh"
. "$ROOT/opt/xcat/lib/standin/servers.sh"
NAME=$(basename "$0")
log_call "$NAME" "$@"

tabdump() {
    file=""; all=""
    while [ $# -gt 0 ]; do
        case "$1" in
            -f) file="$2"; shift ;;
            -d) need_daemon; columns "$2" | sed 's/$/:	a column/'; exit 0 ;;
            -*) ;;
            *) all="$1" ;;
        esac
        shift
    done
    need_daemon
    if [ -z "$all" ]; then tables; exit 0; fi
    if ! tables | grep -qx "$all" || [ ! -f "$(file_of "$all")" ]; then
        echo "Error: Unable to open $all" >&2
        exit 1
    fi
    if [ -n "$file" ]; then print_table "$all" > "$file"; else print_table "$all"; fi
}

# Deletes before it checks. Through the daemon a bad header loses the rows; without it the transaction is rolled back.
tabrestore() {
    adding=""
    [ "$1" = -a ] && { adding=1; shift; }
    need_daemon
    [ -r "$1" ] || { echo "Error: Unable to open $1" >&2; exit 1; }
    table=$(basename "$1"); table=${table%%.*}
    if ! tables | grep -qx "$table"; then
        echo "Error: Table $table is not known" >&2
        exit 4
    fi
    make_table "$table"
    database=$(file_of "$table")
    header=$(head -n 1 "$1" | tr -d '"\r')
    bad=""
    case "$header" in
        '#'*) for column in $(echo "${header#\#}" | tr , ' '); do columns "$table" | grep -qx "$column" || bad="$column"; done ;;
        *) bad="no header" ;;
    esac
    if [ -n "$bad" ]; then
        [ -n "$adding$XCATBYPASS" ] || sqlite3 "$database" "DELETE FROM \"$table\";"
        echo "Error: The header line in $1 does not match the schema: $bad" >&2
        exit 1
    fi
    work=$(mktemp -d)
    # Blank lines and blanks at the end of a line do not survive within a value, and a carriage return ends a line.
    tail -n +2 "$1" | sed 's/\r$//' | tr '\r' '\n' | awk '
        { quotes = gsub(/"/, "\""); before = within; if (quotes % 2) within = !within }
        within { sub(/[ \t]+$/, "") }
        /^[ \t]*$/ { if (before) next; print NR > "/dev/stderr" }
        { print }' > "$work/rows" 2> "$work/blank"
    if [ -s "$work/blank" ]; then
        echo "Error: DB error with line $(head -n 1 "$work/blank") in $1" >&2
        rm -rf "$work"
        exit 4
    fi
    names=$(echo "${header#\#}" | sed 's/,/","/g; s/.*/"&"/')
    unset_or=$(echo "$names" | sed 's/"[^"]*"/nullif(&, '"''"')/g')
    {
        echo ".bail on"
        echo "CREATE TEMP TABLE loaded ($(echo "$names" | sed 's/,/ TEXT,/g') TEXT);"
        echo ".mode csv"
        [ -s "$work/rows" ] && echo ".import $work/rows loaded"
        echo "BEGIN;"
        [ -n "$adding" ] || echo "DELETE FROM \"$table\";"
        echo "INSERT OR REPLACE INTO \"$table\" ($names) SELECT $unset_or FROM loaded;"
        echo "COMMIT;"
    } | sqlite3 "$database" 2> "$work/errors"
    if [ $? -ne 0 ] || grep -q 'extra\|unescaped\|unterminated' "$work/errors"; then
        echo "Error: DB error in $1: $(head -n 1 "$work/errors")" >&2
        rm -rf "$work"
        exit 4
    fi
    rm -rf "$work"
}

# Ends well once it has the list of tables, whatever becomes of each.
dumpxCATdb() {
    all=""; folder=""
    while [ $# -gt 0 ]; do
        case "$1" in
            -a) all=1 ;;
            -p) folder="$2"; shift ;;
            -b) echo "Error: binary backup is not supported for this database" >&2; exit 1 ;;
        esac
        shift
    done
    [ -n "$folder" ] || { echo "Usage: dumpxCATdb -p PATH" >&2; exit 1; }
    need_daemon
    mkdir -p "$folder"
    skipped=${XCAT_SKIPTABLES-$(site skiptables)}
    for table in $(tables); do
        case "$table" in
            eventlog | auditlog) [ -n "$all" ] || continue ;;
            x_teal* | isnm_perf*) continue ;;
        esac
        case ",$skipped," in *",$table,"*) continue ;; esac
        (tabdump -f "$folder/$table.csv" "$table")
    done
    echo "Backup Complete."
}

# Takes every file for a table, and says that all is well whatever happened.
restorexCATdb() {
    all=""; folder=""
    while [ $# -gt 0 ]; do
        case "$1" in -a) all=1 ;; -p) folder="$2"; shift ;; esac
        shift
    done
    [ -d "$folder" ] || { echo "Error: the path of the dump does not exist" >&2; exit 1; }
    skipped=$([ -f "$(file_of site)" ] && site skiptables)
    for file in "$folder"/*; do
        table=$(basename "$file"); table=${table%%.*}
        case "$table" in
            eventlog | auditlog) [ -n "$all" ] || continue ;;
            x_teal* | isnm_perf*) continue ;;
        esac
        case ",$skipped," in *",$table,"*) continue ;; esac
        echo "Restoring $table"
        (tabrestore "$file")
    done
    echo "Restore of Database Complete."
    exit 0
}

# Where cfgloc names such a database, nothing is done, and all is said to be well. Else role and database are made.
pgsqlsetup() {
    [ "$1" = -i ] && [ -n "$XCATPGPW" ] || { echo "Usage: XCATPGPW=PASSWORD pgsqlsetup -i" >&2; exit 1; }
    if grep -q '^Pg:' "$CONFIG/cfgloc" 2> /dev/null; then
        echo "The file $CONFIG/cfgloc is already configured for PostgreSQL."
        exit 0
    fi
    for words in "CREATE ROLE xcatadm LOGIN PASSWORD '$XCATPGPW'" "CREATE DATABASE xcatdb OWNER xcatadm"; do
        runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -c "$words" postgres || exit 1
    done
    (umask 077 && echo "Pg:dbname=xcatdb;host=$(site master)|xcatadm|$XCATPGPW" > "$CONFIG/cfgloc")
}

lsxcatd() {
    version=$(sed -n "s/.*'Version ' *\. '\([^']*\)' \. '\([^']*\)'.*/Version \1\2/p" "$ROOT/opt/xcat/lib/perl/xCAT/Version.pm")
    case "$1" in
        -v | --version) need_daemon; echo "$version" ;;
        -t | --nodetype) [ -e "$ROOT/etc/xCATMN" ] && echo "This is a Management Node" || echo "This is a Service Node" ;;
        -d | --database) echo "dbengine=SQLite" ;;
        *) need_daemon; echo "$version"; echo "This is a Management Node"; echo "dbengine=SQLite" ;;
    esac
}

makehosts() {
    need_daemon
    [ "$1" = -n ] && echo "127.0.0.1 localhost" > "$ROOT/etc/hosts"
    nodes | while read -r node ip; do
        [ -n "$ip" ] || continue
        sed -i "/[ 	]$node[ 	]*$/d" "$ROOT/etc/hosts"
        echo "$ip $node.$(site domain) $node" >> "$ROOT/etc/hosts"
    done
}

makedns() {
    need_daemon
    if has_named; then serve_names "$@"; return; fi
    zones="$ROOT/var/lib/bind"; conf="$ROOT/etc/bind/named.conf"
    [ -d "$ROOT/var/named" ] && { zones="$ROOT/var/named"; conf="$ROOT/etc/named.conf"; }
    mkdir -p "$zones" "$(dirname "$conf")"
    [ "$1" = -n ] && rm -f "$zones"/db.* "$conf"
    secret=$(sqlite3 "$(file_of passwd)" "SELECT password FROM passwd WHERE key = 'omapi';")
    printf 'key xcat_key {\n algorithm hmac-md5;\n secret "%s";\n};\nzone "%s" { type master; file "db.%s"; };\n' \
        "$secret" "$(site domain)" "$(site domain)" > "$conf"
    printf 'key xcat_key {\n secret "%s";\n};\n' "$secret" > "$CONFIG/ddns.key"
    chmod 660 "$CONFIG/ddns.key"
    printf '$TTL 86400\n@ IN SOA mn root 1 1 1 1 1\n' > "$zones/db.$(site domain)"
    # What nodes are called stands in the journal until the server writes it out.
    nodes > "$zones/db.$(site domain).jnl"
}

makedhcp() {
    need_daemon
    if has_dhcpd; then serve_addresses "$@"; return; fi
    conf="$ROOT/etc/dhcp/dhcpd.conf"; leases="$ROOT/var/lib/dhcp/dhcpd.leases"
    [ -d "$ROOT/var/lib/dhcpd" ] && leases="$ROOT/var/lib/dhcpd/dhcpd.leases"
    mkdir -p "$(dirname "$conf")" "$(dirname "$leases")"
    secret=$(sqlite3 "$(file_of passwd)" "SELECT password FROM passwd WHERE key = 'omapi';")
    case "$1" in
        -n) printf 'omapi-port 7911;\nkey xcat_key { secret "%s"; };\nnext-server %s;\n' "$secret" "$(site master)" > "$conf" ;;
        *) nodes | while read -r node ip; do printf 'host %s {\n  fixed-address %s;\n}\n' "$node" "$ip"; done >> "$leases" ;;
    esac
}

makegocons() {
    need_daemon
    mkdir -p "$ROOT/etc/goconserver" "$ROOT/var/lib/goconserver"
    printf 'global:\n  host: 0.0.0.0\n' > "$ROOT/etc/goconserver/server.conf"
    nodes > "$ROOT/var/lib/goconserver/nodes"
}

makeconservercf() {
    need_daemon
    { echo "#xCAT BEGIN CONSERVER"; nodes | sed 's/ .*//; s/.*/console & { }/'; echo "#xCAT END CONSERVER"; } > "$ROOT/etc/conserver.cf"
}

mknb() {
    need_daemon
    [ -n "$1" ] || { echo "Error: need to specify architecture" >&2; exit 1; }
    tftp="$ROOT$(site tftpdir)/xcat"
    mkdir -p "$tftp/xnba/nets"
    [ "$2" = -c ] || {
        base="$ROOT/opt/xcat/share/xcat/netboot/genesis/$1/kernel"
        [ -f "$base" ] || { echo "Error: no genesis base for $1" >&2; exit 1; }
        cp "$base" "$tftp/genesis.kernel.$1"
        { cat "$base"; cat "$ROOT/root/.ssh/id_rsa.pub"; head -c 8192 /dev/zero; } > "$tftp/genesis.fs.$1.gz"
    }
    echo "next-server $(site master)" > "$tftp/xnba/nets/$1"
}

makeknownhosts() {
    need_daemon
    nodes | sed 's/ .*//' | while read -r node; do echo "$node $(cat "$CONFIG/hostkeys/ssh_host_rsa_key.pub")"; done > "$ROOT/root/.ssh/known_hosts"
}

makentp() {
    need_daemon
    echo "server $(site ntpservers)" > "$ROOT/etc/ntp.conf"
}

# The port is only listened on where a test asks for it: in most roots the network is that of the machine.
listen() {
    [ -e "$ROOT/run/standin-listens" ] || return 0
    port=$(site xcatdport)
    if command -v perl > /dev/null; then
        perl -MIO::Socket::INET -e '
            my $port = IO::Socket::INET->new(LocalPort => shift, Listen => 5, ReuseAddr => 1) or exit 1;
            while (my $client = $port->accept) { close $client }' "${port:-3001}" < /dev/null > /dev/null 2>&1 &
    else
        nc -ll -p "${port:-3001}" -e /bin/true < /dev/null > /dev/null 2>&1 &
    fi
    echo $! > "$RUNNING.port"
}

unlisten() {
    [ -e "$RUNNING.port" ] || return 0
    kill "$(cat "$RUNNING.port")" 2> /dev/null
    rm -f "$RUNNING.port"
}

xcatd() {
    case "$1" in
        start)
            [ -e "$RUNNING" ] && { echo "xcatd is already running"; exit 0; }
            for table in $(tables); do make_table "$table"; done
            mkdir -p "$(dirname "$RUNNING")"; echo $$ > "$RUNNING"; listen ;;
        stop) unlisten; rm -f "$RUNNING" ;;
        restart) unlisten; mkdir -p "$(dirname "$RUNNING")"; echo $$ > "$RUNNING"; listen ;;
        status) if [ -e "$RUNNING" ]; then echo "xcatd is running"; else echo "xcatd is stopped"; exit 3; fi ;;
    esac
}

"$NAME" "$@"
