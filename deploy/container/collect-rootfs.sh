#!/usr/bin/env bash
# Copies a program, the Debian packages whose libraries it loads, CA certificates and user records into
# a folder that becomes the image. Neither shell nor package manager get there; dpkg's records do, so
# that scanners find the packages, those linked statically among them.
#   collect-rootfs.sh PROGRAM STATIC_PACKAGES ROOTFS
set -euo pipefail
program=$1 static=$2 rootfs=$3

mkdir -p "$rootfs"/{tmp,proc,sys,dev,models,etc/ssl/certs,var/lib/dpkg} \
  "$rootfs"/usr/{bin,sbin,lib,lib64,local/bin}
chmod 1777 "$rootfs/tmp"
for folder in bin sbin lib lib64; do ln -sfn "usr/$folder" "$rootfs/$folder"; done

libraries() { ldd "$program" | awk '/=> \//{print $3} /^\t\//{print $1}'; }
packages() {
  local library
  for library in $(libraries); do
    dpkg -S "*/$(basename "$(readlink -f "$library")")" | grep -v '^diversion' | head -n 1 | cut -d: -f1
  done
  echo base-files
  echo netbase
}
if ldd "$program" | grep 'not found'; then
  echo "collect-rootfs.sh: the stage above lacks these libraries" >&2
  exit 1
fi
mapfile -t wanted < <(packages | sort -u)

# Libraries, their licences and data; no programs, no manuals.
left_out='^/usr/share/(man|locale|lintian|bash-completion)|/gconv/|^/(usr/)?s?bin/|^/var/'
left_out+='|^/usr/share/doc/[^/]*/(changelog|NEWS|README)'
for package in "${wanted[@]}"; do
  dpkg -L "$package" | grep -vE "$left_out" | while read -r file; do
    if [ -L "$file" ] || [ -f "$file" ]; then
      mkdir -p "$rootfs$(dirname "$file")"
      [ -e "$rootfs$file" ] || cp -a "$file" "$rootfs$file"
    fi
  done
done
cp /etc/ssl/certs/ca-certificates.crt "$rootfs/etc/ssl/certs/"

{
  for package in "${wanted[@]}" ca-certificates; do dpkg-query -s "$package"; echo; done
  while read -r package version architecture source; do
    printf 'Package: %s\nStatus: install ok installed\nPriority: optional\nSection: libdevel\n' "$package"
    printf 'Maintainer: Debian\nArchitecture: %s\nVersion: %s\n' "$architecture" "$version"
    if [ -n "$source" ]; then printf 'Source: %s\n' "$source"; fi
    printf 'Description: linked statically into tessera\n\n'
  done < "$static"
} > "$rootfs/var/lib/dpkg/status"

printf 'root:x:0:0::/:/sbin/nologin\ntessera:x:65532:65532::/tmp:/sbin/nologin\n' > "$rootfs/etc/passwd"
printf 'root:x:0:\ntessera:x:65532:\n' > "$rootfs/etc/group"
install -m 755 "$program" "$rootfs/usr/local/bin/tessera"
