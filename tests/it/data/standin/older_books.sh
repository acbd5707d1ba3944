#!/bin/sh
# Makes of rpm's SQLite database the same in the form that EL 8 and older keep: Berkeley's, a file for the headers by number,
# and one for each index, of number and place.
set -e
cd "$1"
le() {
    printf "printf('%%02x%%02x%%02x%%02x', %s & 255, (%s >> 8) & 255, (%s >> 16) & 255, (%s >> 24) & 255)" "$1" "$1" "$1" "$1"
}
load() {
    { printf 'VERSION=3\nformat=bytevalue\ntype=%s\ndb_pagesize=4096\nHEADER=END\n' "$1"; cat; echo DATA=END; } | db5.3_load "$2"
}
line="char(10) || ' ' ||"
{
    sqlite3 rpmdb.sqlite "SELECT ' 00000000' || $line $(le h) FROM (SELECT max(hnum) AS h FROM Packages);"
    sqlite3 rpmdb.sqlite "SELECT ' ' || $(le hnum) || $line lower(hex(blob)) FROM Packages;"
} | load hash Packages
for index in $(sqlite3 rpmdb.sqlite "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%idx%'"); do
    sqlite3 rpmdb.sqlite "SELECT ' ' || lower(hex(key)) || $line group_concat($(le hnum) || $(le idx), '') FROM \"$index\"
        WHERE length(key) > 0 GROUP BY key;" | load btree "$index"
done
rm rpmdb.sqlite*
