#!/bin/sh
# Installs the programs that the agent calls, and copies the files of the image to the directory $1: these
# programs, the binary, the libraries that they load, and the list of their packages. It needs root, and
# installs packages in the Debian system in which it runs. With `nftables` as $2, the directory has neither
# iptables nor ipset.
set -eu
root=$1
backend=${2:-iptables}

# The tested upstream versions. The revision of Debian can change with security fixes.
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    'iptables=1.8.9-*' 'ipset=7.17-*' 'nftables=1.0.6-*'

# The links of a merged /usr, as in Debian.
mkdir -p "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/lib64" "$root/var/lib/dpkg/status.d"
for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done
for name in dev etc proc run sys tmp; do mkdir "$root/$name"; done

gather() {
    # Resolve links of the directory, but copy the file itself as it is, also if it is a link.
    file=$(readlink -f "$(dirname "$1")")/$(basename "$1")
    [ ! -e "$root$file" ] && [ ! -L "$root$file" ] || return 0
    cp -a --parents "$file" "$root"
    package=$(dpkg -S "$file" "${file#/usr}" 2>/dev/null | sed -n '1s/:.*//p')
    [ -z "$package" ] || dpkg -s "$package" >"$root/var/lib/dpkg/status.d/$package"
}

# deploy/cleanup uses sleep, because its pods must keep running. `portcullis inspect` and `trace` run nft.
for program in /usr/bin/portcullis /usr/bin/sleep /usr/sbin/nft; do gather "$program"; done
[ "$backend" = nftables ] || for program in /usr/sbin/ipset \
    $(dpkg -L iptables | grep -E '/sbin/(xtables|ip6?tables)-(legacy|nft)') \
    $(for name in iptables ip6tables; do for verb in '' -save -restore; do
        echo "/usr/sbin/$name$verb" "/etc/alternatives/$name$verb"; done; done) \
    $(dpkg -L iptables libxtables12 | grep -E '/xtables/.*\.so$'); do
    gather "$program"
done

# The targets of links, then the libraries. ldd also lists the libraries of libraries.
find "$root/usr" "$root/etc" -type l | while read -r link; do gather "$(readlink -f "${link#"$root"}")"; done
find "$root/usr" -type f \( -perm -u+x -o -name '*.so' \) -exec ldd {} + 2>/dev/null \
    | grep -oE '/[^ :]+ \(' | sort -u | while read -r library _; do
        gather "$library"
        gather "$(readlink -f "$library")"
    done
