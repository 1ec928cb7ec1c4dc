#!/usr/bin/env bash
# Packs a directory, or one static program, as an image that `ctr images import` and `docker load` take, and
# prints the archive's path. The same content gives the same archive, which is kept in the cache.
#
#     tests/kube/image.sh --tag NAME:TAG [--tag …] [--entrypoint PROGRAM]… [--cmd ARGUMENT]… [--env NAME=VALUE]… ROOT
#
# --entrypoint and --cmd are given once for each word. A program is put at / under its own name.
set -euo pipefail
fail() { printf 'image: %s\n' "$*" >&2; exit 1; }

tags=() entrypoint=() cmd=() env=()
while [ $# -gt 1 ]; do
    case $1 in
        --tag) tags+=("$2") ;;
        --entrypoint) entrypoint+=("$2") ;;
        --cmd) cmd+=("$2") ;;
        --env) env+=("$2") ;;
        *) fail "no option '$1'" ;;
    esac
    shift 2
done
root=${1:?which directory or program}
[ ${#tags[@]} -gt 0 ] || fail "an image needs a --tag"
if [ -d "$root" ]; then from=$root files=.
else from=$(dirname "$root") files=$(basename "$root"); fi

# A JSON list of strings, which have no quotes and backslashes in them.
list() {
    local separator=
    printf '['
    for word in "$@"; do
        [[ $word != *[\"\\]* ]] || fail "cannot quote $word"
        printf '%s"%s"' "$separator" "$word"
        separator=,
    done
    printf ']'
}
pack() { tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 "$@"; }

images=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis/images
mkdir -p "$images"
work=$(mktemp -d "$images/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT
pack -C "$from" -cf "$work/layer.tar" "$files"
layer=$(sha256sum <"$work/layer.tar" | cut -d ' ' -f 1)
case $(uname -m) in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) architecture=$(uname -m) ;; esac
cat >"$work/config.json" <<END
{"architecture":"$architecture","os":"linux","created":"1970-01-01T00:00:00Z",
 "config":{"Entrypoint":$(list "${entrypoint[@]}"),"Cmd":$(list "${cmd[@]}"),"Env":$(list "${env[@]}")},
 "rootfs":{"type":"layers","diff_ids":["sha256:$layer"]}}
END
cat >"$work/manifest.json" <<END
[{"Config":"config.json","RepoTags":$(list "${tags[@]}"),"Layers":["layer.tar"]}]
END
archive=$images/$(cat "$work/config.json" "$work/manifest.json" | sha256sum | cut -c 1-16).tar
if [ ! -e "$archive" ]; then
    pack -C "$work" -cf "$work/archive" manifest.json config.json layer.tar
    mv "$work/archive" "$archive"
fi
# What no test has used for a month.
touch "$archive"
find "$images" -maxdepth 1 -name '*.tar' -mtime +30 -delete
echo "$archive"
