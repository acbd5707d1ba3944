#!/bin/sh
# A systemctl for roots that no systemd runs in. Each call is kept in /var/log/systemctl.log. What starts at boot is in the
# links that systemd makes; what runs is in /run/systemctl, unless a unit has a daemon of its own: an executable of its name in
# /usr/lib/systemctl, which is called with start, stop, reload or status, or xcatd's own program.
LOG=/var/log/systemctl.log
STATE=/run/systemctl
OWN=/usr/lib/systemctl
FOLDERS="/etc/systemd/system /run/systemd/system /usr/lib/systemd/system /lib/systemd/system /run/systemd/generator.late"

mkdir -p /var/log "$STATE/active" "$STATE/failed"
printf '%s\n' "$*" >> "$LOG"

quiet=""; now=""; value=""; properties=""; verb=""; units=""
while [ $# -gt 0 ]; do
    case "$1" in
        -q | --quiet) quiet=1 ;;
        --now) now=1 ;;
        --value) value=1 ;;
        --property=*) properties="$properties $(echo "${1#*=}" | tr , ' ')" ;;
        -p | --property) properties="$properties $(echo "$2" | tr , ' ')"; shift ;;
        --version) echo "systemd 252 (of the tests)"; exit 0 ;;
        -*) ;;
        *) if [ -z "$verb" ]; then verb=$1; else units="$units $1"; fi ;;
    esac
    shift
done

# The file name of a unit.
file_of() {
    case "$1" in
        *.service | *.socket | *.timer | *.target | *.mount | *.path) echo "$1" ;;
        *) echo "$1.service" ;;
    esac
}

# Where a unit is, or nothing.
path_of() {
    for folder in $FOLDERS; do
        if [ -e "$folder/$1" ] || [ -L "$folder/$1" ]; then echo "$folder/$1"; return; fi
    done
}

# The unit that a name stands for: an alias is a link to another unit.
meant() {
    path=$(path_of "$1")
    [ -L "$path" ] || { echo "$1"; return; }
    target=$(readlink "$path")
    case "$target" in /dev/null) echo "$1" ;; *) basename "$target" ;; esac
}

load_state() {
    path=$(path_of "$1")
    if [ -z "$path" ]; then echo not-found
    elif [ "$(readlink "$path")" = /dev/null ]; then echo masked
    else echo loaded; fi
}

file_state() {
    case "$(load_state "$1")" in not-found) return ;; masked) echo masked; return ;; esac
    for link in /etc/systemd/system/*.wants/"$1"; do
        if [ -e "$link" ] || [ -L "$link" ]; then echo enabled; return; fi
    done
    case "$(path_of "$1")" in /run/systemd/generator*) echo generated; return ;; esac
    if grep -q '^\[Install\]' "$(path_of "$1")"; then echo disabled; else echo static; fi
}

daemon_of() {
    name=${1%.service}
    if [ -x "$OWN/$name" ]; then echo "$OWN/$name"
    elif [ "$name" = xcatd ] && [ -x /opt/xcat/sbin/xcatd ]; then echo /opt/xcat/sbin/xcatd; fi
}

runs() {
    daemon=$(daemon_of "$1")
    if [ -n "$daemon" ]; then "$daemon" status > /dev/null 2>&1; else [ -e "$STATE/active/$1" ]; fi
}

active_state() {
    if runs "$1"; then echo active
    elif [ -e "$STATE/failed/$1" ]; then echo failed
    else echo inactive; fi
}

start() {
    runs "$1" && return
    daemon=$(daemon_of "$1")
    rm -f "$STATE/failed/$1"
    if [ -z "$daemon" ]; then : > "$STATE/active/$1"; return; fi
    # What a daemon prints goes to the journal, and a daemon keeps no end of the caller's pipes open.
    "$daemon" start < /dev/null >> /var/log/systemctl-daemons.log 2>&1 && return
    : > "$STATE/failed/$1"
    echo "Job for $1 failed because the control process exited with error code." >&2
    return 1
}

stop() {
    daemon=$(daemon_of "$1")
    rm -f "$STATE/failed/$1" "$STATE/active/$1"
    [ -z "$daemon" ] || ! runs "$1" || "$daemon" stop < /dev/null >> /var/log/systemctl-daemons.log 2>&1
}

enable() {
    path=$(path_of "$1")
    wanted=$(sed -n 's/^WantedBy=//p' "$path")
    [ -n "$wanted" ] || { echo "The unit files have no installation config (WantedBy=, ...)" >&2; return 0; }
    for target in $wanted; do
        mkdir -p "/etc/systemd/system/$target.wants"
        ln -sf "$path" "/etc/systemd/system/$target.wants/$1"
    done
    for alias in $(sed -n 's/^Alias=//p' "$path"); do ln -sf "$path" "/etc/systemd/system/$alias"; done
}

disable() {
    rm -f /etc/systemd/system/*.wants/"$1"
    for alias in $(sed -n 's/^Alias=//p' "$(path_of "$1")"); do rm -f "/etc/systemd/system/$alias"; done
}

property() {
    case "$1" in
        Id) meant "$2" ;;
        LoadState) load_state "$2" ;;
        UnitFileState) file_state "$2" ;;
        ActiveState) active_state "$2" ;;
        SubState) if runs "$2"; then echo running; else echo dead; fi ;;
        FragmentPath) path_of "$2" ;;
    esac
}

show() {
    first=1
    for unit in $units; do
        [ -n "$first" ] || echo
        first=""
        file=$(file_of "$unit")
        is=$(meant "$file")
        for key in ${properties:-Id LoadState UnitFileState ActiveState SubState FragmentPath}; do
            if [ -n "$value" ]; then property "$key" "$is"; else echo "$key=$(property "$key" "$is")"; fi
        done
    done
}

code=0
for asked in $units; do
    unit=$(meant "$(file_of "$asked")")
    state=$(load_state "$unit")
    case "$verb" in
        start | restart | reload | try-restart | reload-or-restart)
            if [ "$state" = not-found ]; then
                echo "Failed to $verb $unit: Unit $unit not found." >&2; code=5; continue
            elif [ "$state" = masked ]; then
                echo "Failed to $verb $unit: Unit $unit is masked." >&2; code=1; continue
            fi ;;
        stop)
            [ "$state" = not-found ] && { echo "Failed to stop $unit: Unit $unit not loaded." >&2; code=5; continue; } ;;
        enable | disable)
            [ "$state" = not-found ] && { echo "Failed to $verb unit: Unit file $unit does not exist." >&2; code=1; continue; }
            if [ "$verb" = enable ] && [ "$unit" != "$(file_of "$asked")" ]; then
                echo "Failed to enable unit: Refusing to operate on alias name or linked unit file: $(file_of "$asked")" >&2
                code=1; continue
            fi
            [ "$verb $state" = "enable masked" ] && { echo "Failed to enable unit: Unit file $unit is masked." >&2; code=1; continue; } ;;
    esac
    case "$verb" in
        start) start "$unit" || code=1 ;;
        stop) stop "$unit" || code=1 ;;
        restart | reload-or-restart) stop "$unit"; start "$unit" || code=1 ;;
        try-restart) runs "$unit" && { stop "$unit"; start "$unit" || code=1; } ;;
        reload)
            if ! runs "$unit"; then echo "$unit is not active, cannot reload." >&2; code=1
            else daemon=$(daemon_of "$unit"); [ -z "$daemon" ] || "$daemon" reload >> /var/log/systemctl-daemons.log 2>&1 || code=1; fi ;;
        enable) enable "$unit"; [ -z "$now" ] || start "$unit" || code=1 ;;
        disable) disable "$unit"; [ -z "$now" ] || stop "$unit" || code=1 ;;
        mask) ln -sf /dev/null "/etc/systemd/system/$unit" ;;
        unmask) [ "$state" != masked ] || rm -f "/etc/systemd/system/$unit" ;;
        is-active) [ -n "$quiet" ] || active_state "$unit"; runs "$unit" || code=3 ;;
        is-failed) [ -n "$quiet" ] || active_state "$unit"; [ "$(active_state "$unit")" = failed ] || code=1 ;;
        is-enabled)
            if [ "$state" = not-found ]; then
                echo "Failed to get unit file state for $unit: No such file or directory" >&2; code=1
            else
                [ -n "$quiet" ] || file_state "$unit"
                case "$(file_state "$unit")" in enabled | static) ;; *) code=1 ;; esac
            fi ;;
        status)
            [ "$state" = not-found ] && { echo "Unit $unit could not be found." >&2; code=4; continue; }
            echo "$unit: $(active_state "$unit")"; runs "$unit" || code=3 ;;
        cat) cat "$(path_of "$unit")" ;;
        show | reset-failed | preset | list-unit-files | list-units | kill) ;;
        *) echo "Unknown command verb $verb." >&2; exit 1 ;;
    esac
done
case "$verb" in
    show) show ;;
    daemon-reload | daemon-reexec | reset-failed) ;;
    is-system-running) echo running ;;
    list-unit-files | list-units)
        for folder in $FOLDERS; do
            for path in "$folder"/*.service; do
                [ -e "$path" ] && unit=$(basename "$path") && echo "$unit $(file_state "$unit")"
            done
        done | sort -u ;;
    "") echo "Too few arguments." >&2; exit 1 ;;
esac
exit $code
