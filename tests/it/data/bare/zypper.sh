#!/bin/sh
# The zypper of the machine that tests run on, for this root. What the root names as its own files is this root's to zypper, too.
root=@ROOT@
home=@TOOLS@/zypper
folder=/etc/zypp/repos.d
for word in "$@"; do
    shift
    case "$word" in --reposd-dir=*) folder=${word#--reposd-dir=} ;; *) set -- "$@" "$word" ;; esac
done
mkdir -p "$home" /tmp
repositories=$(mktemp -d "$home/XXXXXX")
echo '%_dbpath /var/lib/rpm' > "$home/.rpmmacros"
for file in "$folder"/*.repo; do
    [ -f "$file" ] && sed "s#file:/*\([^/]\)#file://$root/\1#g" "$file" > "$repositories/$(basename "$file")"
done
exec chroot /host env -i HOME="$root$home" TMPDIR="$root/tmp" LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin zypper \
    --root "$root" --reposd-dir "$root$repositories" "$@"
