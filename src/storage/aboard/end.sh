if [ -z "$program" ]; then
    say "this repository carries no xsnap for $machine, only for: ${machines:-nothing}"
    say "an xsnap of this machine's own does as well: xsnap --repo $here ..."
    exit 1
fi

# The first half of the program's SHA-256 is the last part of its name.
wanted=${program##*-}
is_whole() {
    if command -v sha256sum >/dev/null 2>&1; then
        found=$(sha256sum <"$1")
    elif command -v busybox >/dev/null 2>&1 && busybox sha256sum </dev/null >/dev/null 2>&1; then
        found=$(busybox sha256sum <"$1")
    elif command -v openssl >/dev/null 2>&1; then
        found=$(openssl dgst -sha256 -r <"$1")
    else
        say 'no sha256sum is here: the program is started without being verified'
        return 0
    fi
    case $found in
    "$wanted"*) return 0 ;;
    esac
    return 1
}

# Nothing on a FAT stick may be executed, and not every folder for temporary files either.
mask=$(umask)
umask 077
place=
trap '[ -z "$place" ] || rm -rf "$place"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
why='no folder was found that may execute programs (set TMPDIR to one)'
for base in "${TMPDIR:-}" /tmp /run /dev/shm /var/tmp "${HOME:-}" /root "$PWD"; do
    if [ -z "$base" ] || [ ! -d "$base" ] || [ ! -w "$base" ]; then
        continue
    fi
    place=$base/xsnap-$$
    if ! mkdir "$place" 2>/dev/null; then
        place=
        continue
    fi
    if ! cp "$here/xsnap-alone/$program" "$place/xsnap" 2>/dev/null; then
        why="the program cannot be read, or no room is left for it: $here/xsnap-alone/$program"
    elif ! is_whole "$place/xsnap"; then
        why="the program is damaged, and is not started: $here/xsnap-alone/$program"
    elif chmod 700 "$place/xsnap" && "$place/xsnap" --version >/dev/null 2>&1; then
        break
    fi
    rm -rf "$place"
    place=
done
if [ -z "$place" ]; then
    say "$why"
    exit 1
fi
umask "$mask"
if [ ! -e /proc/self/fd ]; then
    say '/proc is not mounted, and attributes of files cannot be told without it: mount -t proc proc /proc'
fi
XSNAP_REPO=$here "$place/xsnap" "$@"
exit $?
