#!/bin/sh
# The dnf of the machine that tests run on, for this root. What the root names as its own files is this root's to dnf, too.
root=@ROOT@
home=@TOOLS@/dnf
folder=/etc/yum.repos.d
for word in "$@"; do
    shift
    case "$word" in --setopt=reposdir=*) folder=${word#--setopt=reposdir=} ;; *) set -- "$@" "$word" ;; esac
done
mkdir -p "$home" /tmp
repositories=$(mktemp -d "$home/XXXXXX")
echo '%_dbpath /var/lib/rpm' > "$home/.rpmmacros"
for file in "$folder"/*.repo; do
    [ -f "$file" ] && sed "s#file:/*\([^/]\)#file://$root/\1#g" "$file" > "$repositories/$(basename "$file")"
done
exec chroot /host env -i HOME="$root$home" TMPDIR="$root/tmp" LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin dnf \
    --installroot="$root" --releasever=9 --noplugins --setopt=reposdir="$root$repositories" "$@"
