#!/usr/bin/env bash
# Builds the roots of deploy/Dockerfile without docker and runs the agent in them as deploy/base/node.yaml does: a
# read-only root, NET_ADMIN and NET_RAW and no other capability, no new privileges, a read-only /proc/sys. With
# both variants of iptables in the root of the last stage, and with nftables in the root of the stage `nftables`,
# in network namespaces of its own. Says how big the images are.
#
#     tests/image.sh target/release/portcullis
#     tests/image.sh --root target/release/portcullis [nftables]
#
# With --root it runs nothing: it prints the directory of a root, which is kept in the cache for each binary.
# Needs root and Debian's mirror; the first run makes a Debian in the cache (a minute), later ones take seconds.
# The root has the architecture of the binary. That of another machine is made and tried with qemu, which knows too
# little of netlink for an agent: there, programs only have to start, or to have their libraries.
set -euo pipefail
only_root=no
[ "${1:-}" != --root ] || { only_root=yes; shift; }
binary=$(readlink -f "${1:?which binary}")
backend=${2:-iptables}
cd "$(dirname "$0")/.."

fail() { printf 'image: %s\n' "$*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || fail "needs root"
suite=$(sed -n 's/^ARG DEBIAN_IMAGE=debian:\([a-z]*\)-slim$/\1/p' deploy/Dockerfile)
[ -n "$suite" ] || fail "deploy/Dockerfile names no Debian for its root"
command -v debootstrap >/dev/null || { apt-get update -q && apt-get install -y -q debootstrap; } >/dev/null

# The machine that the header of the binary names.
case $(od -An -t u2 -j 18 -N 2 "$binary") in
    *' 62') machine=x86_64 arch=amd64 ;;
    *' 183') machine=aarch64 arch=arm64 ;;
    *) fail "$binary is a program for neither amd64 nor arm64" ;;
esac
other=
[ $machine = "$(uname -m)" ] || other=-$arch

cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis
mkdir -p "$cache/roots"
exec 9>"$cache/image$other.lock"
flock 9
kept=$cache/roots/$(echo "$suite" "$backend" | cat - deploy/rootfs.sh "$binary" | sha256sum | cut -c 1-16)
if [ $only_root = yes ] && [ -d "$kept" ]; then
    touch "$kept"
    echo "$kept"
    exit
fi
debian=$cache/image-$suite$other
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "$other" ]; then
    # The kernel starts the programs of the root with qemu, also after chroot: it keeps the file open.
    formats=/proc/sys/fs/binfmt_misc
    [ -e $formats/register ] || mount -t binfmt_misc binfmt_misc $formats || fail "the kernel has no binfmt_misc"
    if [ ! -e "$formats/qemu-$machine" ]; then
        cat "/usr/lib/binfmt.d/qemu-$machine.conf" >$formats/register || fail "needs the package qemu-user-static"
        trap 'rm -rf "$work"; echo -1 >"$formats/qemu-$machine"' EXIT
    fi
fi
if [ ! -d "$debian" ]; then
    # What debootstrap mounts ends with it, also where it is interrupted: nothing below a mount is removed here.
    rm -rf --one-file-system "$debian.new"
    unshare --mount debootstrap --arch=$arch --variant=minbase "$suite" "$debian.new" >"$work/log" 2>&1 || fail "$(tail -5 "$work/log")"
    mv "$debian.new" "$debian"
fi

# The steps of the Dockerfile's stages `root` and `nftables-root`: makes the root for backend $1 in $2.
make_root() {
    rm -rf "$debian/rootfs" "$2"
    install -m 755 deploy/rootfs.sh "$debian/"
    install -m 755 "$binary" "$debian/usr/bin/portcullis"
    chroot "$debian" /rootfs.sh /rootfs "$1" >"$work/log" 2>&1 || fail "rootfs.sh: $(tail -5 "$work/log")"
    mv "$debian/rootfs" "$2"
}
if [ $only_root = yes ]; then
    make_root "$backend" "$kept"
    # What nobody has used for a week.
    find "$cache/roots" -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} +
    echo "$kept"
    exit
fi

# What a container runtime does around the image, then the agent's life: all in namespaces that end with it.
cat >"$work/container" <<'END'
set -euo pipefail
root=$1 variant=$2 work=$3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
mknod -m 666 "$root/dev/null" c 1 3
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/portcullis"
mkdir -p "$root/var/lib/portcullis"
touch "$root/run/xtables.lock"
ip link set lo up
ip link add cni0 type bridge
# Pods of tests/image/world: two on the bridge, one routed, and one that has no interface.
for pod in 2 5 3; do
    unshare --net sleep infinity &
    pids+=("$!")
    # /proc is of another PID namespace.
    netns=$root/proc/$!/ns/net
    until [ "$(readlink "$netns")" != "$(readlink "$root/proc/self/ns/net")" ]; do sleep 0.01; done
    if [ "$pod" = 3 ]; then host=cali3; else host="veth$pod master cni0"; fi
    # shellcheck disable=SC2086 # a name, and where it is attached
    ip link add ${host%% *} type veth peer name eth0 netns "$!"
    # shellcheck disable=SC2086
    ip link set $host up
    nsenter --net="$netns" ip address add "10.0.0.$pod/24" dev eth0
    nsenter --net="$netns" ip address add "fd00::$pod/64" dev eth0 nodad
    nsenter --net="$netns" ip link set eth0 up
done
trap 'kill "${pids[@]}"' EXIT
ip link set cni0 up
ip route add 10.0.0.3 dev cali3
ip route add fd00::3 dev cali3
for switch in call-iptables call-ip6tables filter-vlan-tagged; do
    if [ -e "/proc/sys/net/bridge/bridge-nf-$switch" ]; then
        echo 1 >"/proc/sys/net/bridge/bridge-nf-$switch"
    fi
done
mount -t tmpfs tmpfs "$root/var/lib/portcullis"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -o remount,bind,ro "$root"

# The environment as in the Dockerfile.
environment=(PATH=/usr/sbin:/usr/bin) chosen=(--iptables "$variant")
[ "$variant" != nftables ] || { environment+=(PORTCULLIS_BACKEND=nftables); chosen=(); }
# chroot itself needs a capability more, of no use in a network namespace.
contained=(env -i "${environment[@]}" setpriv --no-new-privs --inh-caps -all
    --bounding-set -all,+net_admin,+net_raw,+sys_chroot chroot "$root")
says() { grep -q -- "$1" "$2" || { cat "$2"; echo "image: $variant: nothing says '$1'"; exit 1; } >&2; }
lacks() { if grep -E -- "$1" "$2" >&2; then echo "image: $variant: this line should not be there" >&2; exit 1; fi; }

"${contained[@]}" portcullis preflight "${chosen[@]}" >"$work/preflight" || true
lacks ^error: "$work/preflight"

# Waits until the agent's log $1 has $2 lines that say that policies are enforced.
enforced() {
    for _ in $(seq 600); do
        [ "$(grep -c 'policies are enforced' "$1")" -lt "$2" ] || return 0
        sleep 0.05
    done
    cat "$1" >&2
    return 1
}
# Starts the agent, waits until its policies are enforced, runs the other arguments, and ends it.
agent() {
    local log=$1
    shift
    # shellcheck disable=SC2086 # a line of flags
    "${contained[@]}" portcullis node --source dir:/run/world --node-name n1 --health-address off --metrics-address off \
        "${chosen[@]}" $flags 2>"$log" &
    enforced "$log" 1
    "$@"
    kill "$!" && wait "$!" || true
    says 'stopping; the rules in the kernel stay applied' "$log"
    lacks ' (WARN|ERROR) ' "$log"
}
# Members join and leave sets while the agent runs; no rule changes.
change_members() {
    for file in "$work"/then/*; do
        cp "$file" "$root/run/world/.new"
        mv "$root/run/world/.new" "$root/run/world/${file##*/}"
    done
    enforced "$work/first" 2
    says 'chains_changed=0 sets_created=0 members_changed=[1-9]' "$work/first"
}
rules_are_there() {
    if [ "$variant" = nftables ]; then
        for family in ip ip6; do
            "${contained[@]}" nft list table "$family" portcullis >"$work/rules"
            says 'jump PORTCULLIS-FORWARD' "$work/rules"
            says '@PORTCULLIS' "$work/rules"
            says '"cali3"' "$work/rules"
            "${contained[@]}" nft list table bridge "portcullis-$family" >"$work/rules"
            says 'iifname "veth2"' "$work/rules"
        done
        return
    fi
    for family in iptables ip6tables; do
        "${contained[@]}" "$family-$variant-save" >"$work/rules"
        says '-A FORWARD -j PORTCULLIS-FORWARD' "$work/rules"
        says '-m set --match-set PORTCULLIS' "$work/rules"
        says '-m physdev ! --physdev-in veth2 ' "$work/rules"
        says '! -i cali3 ' "$work/rules"
    done
}
nothing_is_left() {
    "${contained[@]}" nft list tables >"$work/rules"
    lacks portcullis "$work/rules"
    [ "$variant" != nftables ] || return 0
    for family in iptables ip6tables; do
        "${contained[@]}" "$family-$variant-save" >"$work/rules"
        lacks PORTCULLIS "$work/rules"
    done
    "${contained[@]}" ipset list -name >"$work/sets"
    lacks PORTCULLIS "$work/sets"
}
while read -r flags; do
    rm -rf "$root/run/world" "$root/var/lib/portcullis/enforced"
    cp -r "$work/world" "$root/run/world"
    # No rule of nftables can accept a packet for the tables of others: the agent would log an error.
    [ "$variant" != nftables ] || flags=${flags/--accept-action accept/}
    agent "$work/first" change_members
    rules_are_there
    # It reads back what it wrote: what the image lacks (names of protocols, say) would make a difference.
    agent "$work/second" true
    says 'chains_changed=0 sets_created=0 members_changed=0' "$work/second"
    "${contained[@]}" portcullis cleanup >"$work/cleaned"
    says '^removed [1-9]' "$work/cleaned"
    nothing_is_left
done <"$work/flags"
# It sleeps for deploy/cleanup, as nobody.
chroot --userspec=65532:65532 --groups= "$root" /usr/bin/sleep 0
END

cp -r tests/image/. "$work"

size() { du -sb "$1" | awk '{printf "%.1f MB", $1 / 1e6}'; }
# All libraries of the programs in the root $1 are there, and those programs start that need no netlink to do so.
starts() {
    local root=$1 backend=$2 call program loader
    local -a calls=('portcullis --version' 'portcullis --help' 'sleep 0') contained
    [ "$backend" = nftables ] || calls+=('iptables-legacy --version' 'ip6tables-nft-restore --version')
    loader=$(cd "$root" && printf '/%s\n' lib*/ld-linux-*.so.* | head -n 1)
    contained=(unshare --net env -i PATH=/usr/sbin:/usr/bin chroot "$root")
    for program in "$root"/usr/bin/* "$root"/usr/sbin/*; do
        [ -L "$program" ] || calls+=("$loader --list ${program#"$root"}")
    done
    for call in "${calls[@]}"; do
        # shellcheck disable=SC2086 # a program and its arguments
        "${contained[@]}" $call >"$work/log" 2>&1 || fail "$call for $arch: $(tail -3 "$work/log")"
    done
    echo "image for $backend: $("${contained[@]}" portcullis --version) for $arch: ${#calls[@]} programs start, or have" \
        "their libraries"
    # It reports that the node cannot enforce policies, because there is no netlink.
    "${contained[@]}" portcullis preflight --no-fail 2>&1 | sed 's/^/    /'
}
# Runs the agent in the root for backend $1, with what follows: variants of iptables, or nftables.
check() {
    local root=$debian/checked backend=$1
    make_root "$backend" "$root"
    shift
    if [ -n "$other" ]; then
        starts "$root" "$backend"
        set --
    fi
    for variant in "$@"; do
        unshare --net --mount --pid --fork --kill-child \
            bash "$work/container" "$root" "$variant" "$work" || fail "$variant does not work in the image for $backend"
        echo "image for $backend: $variant: preflight, an agent's two starts with a change between them for each line of" \
            "tests/image/flags, cleanup"
    done
    [ ! -e "$root/usr/bin/sh" ] || fail "there is a shell"
    packed=$(tar -C "$root" -c . | gzip | wc -c | awk '{printf "%.1f MB", $1 / 1e6}')
    echo "image for $backend: $(size "$root") ($packed packed), of which the binary is $(size "$root/usr/bin/portcullis")"
}
check iptables nft legacy
check nftables nftables
# nft itself needs the library libxtables.
programs=$(cd "$debian/checked" && find usr/bin usr/sbin etc -name '*tables*' -o -name 'ipset')
[ "$programs" = "" ] || fail "the image for nftables has $programs"
