# Stand-in of a management node for the tests of xsnap: what its commands share. It behaves as xCAT is known to, faults
# included, and does the least that can be checked.

CONFIG="$ROOT/etc/xcat"
LOG="$ROOT/var/log/xcat-standin.log"
TABLES="$ROOT/opt/xcat/lib/standin/tables.txt"
RUNNING="$ROOT/run/xcatd-standin"

# Every call is kept, with what is set in its environment.
log_call() {
    mkdir -p "$ROOT/var/log"
    printf '%s%s\n' "${XCATBYPASS:+XCATBYPASS=$XCATBYPASS }" "$*" >> "$LOG"
}

tables() {
    awk '!/^#/ && NF { print $1 }' "$TABLES"
    ls "$ROOT/opt/xcat/lib/perl/xCAT_schema/" 2> /dev/null | sed -n 's/^\(x_[a-z0-9_]*\)\.pm$/\1/p'
}

# The columns of a table, one a line; of a table of the site's own, those in its schema file.
columns() {
    if grep -q "^$1 " "$TABLES"; then
        awk -v table="$1" '$1 == table { for (i = 3; i <= NF; i++) print $i; print "comments"; print "disable" }' "$TABLES"
    else
        sed -n 's/.*cols *=> *\[qw(\([^)]*\))\].*/\1/p' "$ROOT/opt/xcat/lib/perl/xCAT_schema/$1.pm" | tr ' ' '\n'
    fi
}

file_of() {
    printf '%s/%s.sqlite' "$CONFIG" "$1"
}

# Makes a table that is not there.
make_table() {
    [ -f "$(file_of "$1")" ] && return
    columns "$1" | awk -v table="$1" -v keys="$(awk -v t="$1" '$1 == t { print $2 }' "$TABLES")" '
        BEGIN { keys = keys ? keys : 1; printf "CREATE TABLE \"%s\" (", table }
        $0 == "recid" { printf "\n  \"%s\" INTEGER PRIMARY KEY AUTOINCREMENT,", $0; next }
        NR <= keys { printf "\n  \"%s\" VARCHAR(128) ,", $0; key = key (key ? "," : "") "\"" $0 "\""; next }
        { printf "%s\n  \"%s\" TEXT", comma, $0; comma = "," }
        END { if (key) printf ",\n  PRIMARY KEY (%s)", key; print "\n);" }' | sqlite3 "$(file_of "$1")"
    chmod 600 "$(file_of "$1")"
}

# A row, unless one of the same key is there: table, then values in the order of the columns.
put_row() {
    table="$1"; shift
    values=""
    for value in "$@"; do values="$values${values:+,}'$(printf '%s' "$value" | sed "s/'/''/g")'"; done
    names=$(columns "$table" | head -n $# | sed 's/.*/"&"/' | paste -sd, -)
    sqlite3 "$(file_of "$table")" "INSERT OR IGNORE INTO \"$table\" ($names) VALUES ($values);"
}

site() {
    sqlite3 "$(file_of site)" "SELECT value FROM site WHERE key = '$1' AND coalesce(disable, '') = '';"
}

# Commands reach the tables through the daemon, unless they are told to go round it.
need_daemon() {
    [ -n "$XCATBYPASS" ] && return
    [ -e "$RUNNING" ] && return
    echo "Unable to open socket connection to xcatd daemon on localhost:3001." >&2
    echo "Verify that the xcatd daemon is running and that your SSL setup is correct." >&2
    exit 1
}

# A table as the dump has it. A value that is one line feed counts as unset.
print_table() {
    columns "$1" | paste -sd, - | sed 's/^/#/'
    expression=$(columns "$1" | sed "s/.*/CASE WHEN coalesce(\"&\",'') IN ('', char(10)) THEN '' ELSE '\"'||replace(\"&\",'\"','\"\"')||'\"' END/" \
        | paste -sd'~' - | sed "s/~/ || ',' || /g")
    sqlite3 "$(file_of "$1")" "SELECT $expression FROM \"$1\";"
}

# Nodes and their addresses, with the group's row of hosts left alone.
nodes() {
    sqlite3 "$(file_of nodelist)" "ATTACH '$(file_of hosts)' AS h;
        SELECT n.node || ' ' || coalesce(h.hosts.ip, '') FROM nodelist n LEFT JOIN h.hosts ON h.hosts.node = n.node;"
}

# Something that looks like a key and is never the same twice.
pem() {
    echo "-----BEGIN $1-----"
    head -c 192 /dev/urandom | base64
    echo "-----END $1-----"
}
