# The first process of a node: its own mounts, then containerd, kube-proxy and the kubelet until it is killed.
# Runs in new mount, UTS, IPC and PID namespaces, inside the node's network namespace.
#
#     sh node-init.sh STATE NAME BINARIES
#
# STATE holds the node's files: its configuration, its logs, and what survives a restart of the node.
set -eu
state=$1 name=$2 binaries=$3

# Nothing that is mounted here is seen outside.
mount --make-rprivate /
mount --make-rshared /
hostname "$name"

# The node writes to directories of its own, and the machine's stay as they are.
for directory in etc var; do
    mkdir -p "$state/upper/$directory" "$state/work/$directory"
    mount -t overlay overlay "/$directory" \
        -o "lowerdir=/$directory,upperdir=$state/upper/$directory,workdir=$state/work/$directory"
done
for directory in kubelet containerd; do
    mkdir -p "$state/$directory" "/var/lib/$directory"
    mount --bind "$state/$directory" "/var/lib/$directory"
done

# A sysfs that shows this network namespace, with the machine's cgroups where they were.
mkdir -p "$state/cgroup"
mount --rbind /sys/fs/cgroup "$state/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$state/cgroup" /sys/fs/cgroup

# What a node forgets when it restarts: sockets, locks, /run/xtables.lock among them, network namespaces of pods.
mount -t tmpfs tmpfs /run
mkdir -p /run/containerd /run/netns /run/lock

# The kubelet sets these for the whole machine: here it writes to files that only look like them.
mkdir -p "$state/sysctl"
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    file=$state/sysctl/$(echo "$setting" | tr / .)
    cat "/proc/sys/$setting" >"$file"
    mount --bind "$file" "/proc/sys/$setting"
done

# $STATE/bin has the variant of iptables that kube-proxy, the kubelet and the CNI plugins use, and containerd 2
# where this machine's is too old for the kubelet.
export PATH="$state/bin:$binaries:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

containerd --config "$state/containerd.toml" >>"$state/containerd.log" 2>&1 &
until [ -S /run/containerd/containerd.sock ] && ctr version >/dev/null 2>&1; do sleep 0.1; done
for image in "$state"/images/*.tar; do
    # Once for each image: a node that restarts still has it.
    if [ -e "$image" ] && [ ! -e "$image.imported" ]; then
        ctr --namespace k8s.io images import "$image" >>"$state/images.log" 2>&1
        touch "$image.imported"
    fi
done
if [ -e "$state/flanneld.sh" ]; then sh "$state/flanneld.sh" >>"$state/flanneld.log" 2>&1 & fi
kube-proxy --config "$state/kube-proxy.yaml" --hostname-override "$name" >>"$state/kube-proxy.log" 2>&1 &
kubelet --config "$state/kubelet.yaml" --kubeconfig "$state/kubelet.kubeconfig" \
    --hostname-override "$name" --node-ip "$(cat "$state/node-ip")" >>"$state/kubelet.log" 2>&1 &

# As process 1 it collects the processes that containers leave behind.
while :; do wait || true; sleep 1; done
