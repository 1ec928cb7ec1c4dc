#!/bin/sh
# Installs what the agent calls and gathers the image's files in the directory $1: these programs, the
# binary, the libraries they load, and which packages they are of. Runs as root in a Debian that may change.
set -eu
root=$1

# Upstream's versions are the tested ones; Debian's own revisions may move on with its security fixes.
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    'iptables=1.8.9-*' 'ipset=7.17-*'

# Debian's merged /usr.
mkdir -p "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/lib64" "$root/var/lib/dpkg/status.d"
for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done
for name in dev etc proc run sys tmp; do mkdir "$root/$name"; done

gather() {
    # By its true directory, but as the link that it may be.
    file=$(readlink -f "$(dirname "$1")")/$(basename "$1")
    [ ! -e "$root$file" ] && [ ! -L "$root$file" ] || return 0
    cp -a --parents "$file" "$root"
    package=$(dpkg -S "$file" "${file#/usr}" 2>/dev/null | sed -n '1s/:.*//p')
    [ -z "$package" ] || dpkg -s "$package" >"$root/var/lib/dpkg/status.d/$package"
}

# sleep is for deploy/cleanup, whose pods have to stay.
for program in \
    /usr/bin/portcullis /usr/bin/sleep /usr/sbin/ipset \
    $(dpkg -L iptables | grep -E '/sbin/(xtables|ip6?tables)-(legacy|nft)') \
    $(for name in iptables ip6tables; do for verb in '' -save -restore; do
        echo "/usr/sbin/$name$verb" "/etc/alternatives/$name$verb"; done; done) \
    $(dpkg -L iptables libxtables12 | grep -E '/xtables/.*\.so$'); do
    gather "$program"
done

# What the links among these lead to, and then the libraries: ldd follows them to the end.
find "$root/usr" "$root/etc" -type l | while read -r link; do gather "$(readlink -f "${link#"$root"}")"; done
find "$root/usr" -type f \( -perm -u+x -o -name '*.so' \) -exec ldd {} + 2>/dev/null \
    | grep -oE '/[^ :]+ \(' | sort -u | while read -r library _; do
        gather "$library"
        gather "$(readlink -f "$library")"
    done
