# Stand-in of a management node for the tests of xsnap: names and addresses where the real BIND and ISC dhcpd are installed.
# As xCAT does it: records go in by dynamic update, and stand in BIND's journal until it writes its zones; nodes go in through
# OMAPI, and stand in the leases alone.

ZONES="$ROOT/var/lib/bind"
NAMED_CONF="$ROOT/etc/bind/named.conf"
DHCPD_CONF="$ROOT/etc/dhcp/dhcpd.conf"

has_named() { [ -x "$ROOT/usr/sbin/named" ]; }
has_dhcpd() { [ -x "$ROOT/usr/sbin/dhcpd" ]; }

omapi_secret() {
    sqlite3 "$(file_of passwd)" "SELECT password FROM passwd WHERE key = 'omapi';"
}

# Networks: address, mask, card.
networks() {
    sqlite3 -separator ' ' "$(file_of networks)" "SELECT net, mask, mgtifname FROM networks;"
}

# The zone of a network's addresses, by its address and mask: 10.99.0.0 255.255.0.0 is 99.10.
backwards() {
    echo "$1 $2" | tr . ' ' | awk '{ for (i = 4; i > 0; i--) if ($(i + 4) == 255) zone = zone (zone == "" ? "" : ".") $i; print zone }'
}

# Zones, each with the name of its file.
zones() {
    echo "$(site domain) db.$(site domain)"
    networks | while read -r net mask card; do
        zone=$(backwards "$net" "$mask")
        echo "$zone.IN-ADDR.ARPA db.$(echo "$zone" | awk -F. '{ for (i = NF; i > 0; i--) printf "%s%s", $i, (i > 1 ? "." : "") }')"
    done
}

# Names and addresses of the cluster in the hosts file, which xCAT makes its records of.
hosts_of_domain() {
    awk -v domain=".$(site domain)" '!/^#/ { name = $2; if (length(name) > length(domain) &&
        substr(name, length(name) - length(domain) + 1) == domain) print $1, name }' "$ROOT/etc/hosts"
}

# A new configuration with empty zones.
new_zones() {
    systemctl stop named
    rm -f "$ZONES"/db.* "$NAMED_CONF"
    secret=$(omapi_secret)
    {
        printf 'options {\n\tdirectory "%s";\n\tallow-recursion { any; };\n\tdnssec-validation no;\n};\n' "$ZONES"
        printf 'key xcat_key {\n\talgorithm hmac-md5;\n\tsecret "%s";\n};\n' "$secret"
        zones | while read -r zone file; do
            printf 'zone "%s" in {\n\ttype master;\n\tallow-update { key xcat_key; };\n\tfile "%s";\n};\n' "$zone" "$file"
        done
    } > "$NAMED_CONF"
    printf 'key xcat_key {\n\tsecret "%s";\n};\n' "$secret" > "$CONFIG/ddns.key"
    chmod 660 "$CONFIG/ddns.key"
    server="$(cat "$ROOT/etc/hostname")."
    zones | while read -r zone file; do
        {
            printf '$TTL 86400\n@ IN SOA %s root.%s ( %s 10800 3600 604800 86400 )\n@ IN NS %s\n' \
                "$server" "$server" "$(date +%Y%m%d00)" "$server"
            case "$server" in *."$zone".) echo "$server IN A $(site master)" ;; esac
        } > "$ZONES/$file"
    done
    chgrp bind "$NAMED_CONF"
    chmod 640 "$NAMED_CONF"
    chown bind:bind "$ZONES"/db.*
    systemctl start named
}

# Puts names and addresses, from the input, into the zones of the server that runs.
update_names() {
    {
        echo "server 127.0.0.1"
        echo "key hmac-md5:xcat_key $(omapi_secret)"
        while read -r address name; do
            pointer=$(echo "$address" | awk -F. '{ printf "%s.%s.%s.%s.IN-ADDR.ARPA", $4, $3, $2, $1 }')
            printf 'update delete %s. A\nupdate add %s. 86400 A %s\nsend\n' "$name" "$name" "$address"
            printf 'update delete %s. PTR\nupdate add %s. 86400 PTR %s.\nsend\n' "$pointer" "$pointer" "$name"
        done
    } | nsupdate || { echo "Error: the name server refused an update" >&2; exit 1; }
}

serve_names() {
    if [ "$1" = -n ]; then new_zones || exit 1; shift; fi
    hosts_of_domain | while read -r address name; do
        [ $# = 0 ] || case " $* " in *" ${name%%.*} "*) ;; *) continue ;; esac
        echo "$address $name"
    done | update_names
}

# A new configuration, which knows networks and no nodes.
new_dhcp() {
    secret=$(omapi_secret); domain=$(site domain)
    [ ! -f "$DHCPD_CONF" ] || cp -p "$DHCPD_CONF" "$DHCPD_CONF.xcatbak"
    {
        printf '#xCAT generated dhcp configuration\n\nauthoritative;\nddns-update-style none;\nomapi-port 7911;\n'
        printf 'key xcat_key {\n  algorithm hmac-md5;\n  secret "%s";\n};\nomapi-key xcat_key;\n' "$secret"
        networks | while read -r net mask card; do
            printf 'shared-network %s {\n  subnet %s netmask %s {\n    max-lease-time 43200;\n    next-server %s;\n' \
                "$card" "$net" "$mask" "$(site master)"
            printf '    option domain-name "%s";\n    option domain-name-servers %s;\n' "$domain" "$(site nameservers)"
            echo '  } # subnet_end'
            echo '} # nic_end'
        done
    } > "$DHCPD_CONF"
    sed -i "s/^INTERFACESv4=.*/INTERFACESv4=\"$(networks | cut -d ' ' -f 3 | sort -u | paste -sd ' ' -)\"/" \
        "$ROOT/etc/default/isc-dhcp-server"
    systemctl restart isc-dhcp-server
}

# Talks to the server that runs.
omapi() {
    { printf 'key xcat_key "%s"\nconnect\n' "$(omapi_secret)"; cat; } | omshell
}

# Puts nodes that have an address and a card into the server that runs, each in the place of what it had.
add_to_dhcp() {
    sqlite3 -separator ' ' "$(file_of mac)" "ATTACH '$(file_of hosts)' AS h;
        SELECT m.node, m.mac, h.hosts.ip FROM mac m JOIN h.hosts ON h.hosts.node = m.node;" | while read -r node mac ip; do
        printf 'new host\nset name = "%s"\nopen\nremove\nclose\nnew host\nset name = "%s"\n' "$node" "$node"
        printf 'set hardware-address = %s\nset hardware-type = 1\nset ip-address = %s\n' "$mac" "$ip"
        printf 'set statements = "ddns-hostname \\"%s\\"; send host-name \\"%s\\";"\ncreate\nclose\n' "$node" "$node"
    done | omapi > "$ROOT/var/log/omshell.log" 2>&1
    # Whatever becomes of its words, omshell ends well. That there was no host to be removed is no fault.
    if grep -q 'dhcpctl_connect:\|not connected' "$ROOT/var/log/omshell.log"; then
        echo "Error: the DHCP server cannot be reached" >&2
        exit 1
    fi
}

serve_addresses() {
    case "$1" in
        -n) new_dhcp ;;
        *) add_to_dhcp ;;
    esac
}
