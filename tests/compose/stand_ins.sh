#!/bin/sh
# Make stand-ins for the base images from Debian's packages, for an engine that can pull nothing.
# usage: stand_ins.sh DIR    (as root, with debootstrap; DIR keeps the file system for next time)
#
# They have the names that Dockerfile and docker-compose.yml use, and what those rely on: Python 3.13
# as `python3`; redis-server 8.0, a user `redis` with the number 999, and /data, which is that user's.
set -eu
suite=trixie
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=python3-minimal,python3-venv,redis-server,hostname,passwd,ca-certificates
dir=$1
archive=$dir/$suite.tar

if [ ! -e "$archive" ]; then
    root=$dir/root
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$mirror" >"$dir/log" 2>&1 ||
        { tail -n 5 "$dir/log" >&2; exit 1; }
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc
    ln -s /usr/bin/python3 "$root/usr/local/bin/python3"
    ln -s python3 "$root/usr/local/bin/python"
    # Debian's package takes the next free number; the image's user has a fixed one.
    chroot "$root" sh -c 'groupmod -g 999 redis && usermod -u 999 -g 999 redis'
    install -d -o 999 -g 999 "$root/data"
    tar --one-file-system -C "$root" -cf "$archive.new" .
    mv "$archive.new" "$archive"
    rm -rf "$root"
fi
docker import --change 'CMD ["python3"]' "$archive" python:3.13-slim
docker import --change 'VOLUME /data' --change 'WORKDIR /data' --change 'CMD ["redis-server"]' \
    "$archive" redis:8.0
