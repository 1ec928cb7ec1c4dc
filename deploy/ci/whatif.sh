#!/bin/sh
# Runs `kubectl whatif plan`, `lint` and `test` for a pull request (merge request), and writes one Markdown file
# about it. The GitHub Action (action.yml) and the GitLab template (deploy/ci/gitlab.yml) call it. It runs in the root
# of the repository that is checked. Variables of the environment:
#
#   WHATIF               the program (default: kubectl-whatif in PATH)
#   WHATIF_BASE          the revision to compare with, which git must have
#   WHATIF_PATH          the directory of the manifests (default: .)
#   WHATIF_CLUSTER       a file with the objects of the cluster, such as one of `kubectl whatif snapshot`
#   WHATIF_TESTS         files of kind PolicyTest, separated by spaces
#   WHATIF_FAIL_ON       what of the plan fails: opened,closed,dns,backend,external
#   WHATIF_LINT_FAIL_ON  the least severity of a finding that fails: error, warning, note or never (default: warning)
#   WHATIF_ANNOTATE      `github`: write findings as annotations to standard output
#   WHATIF_OUTPUT        the Markdown file (default: whatif.md)
#
# Exit codes: 0 nothing fails, 1 something does, 2 a command failed.
set -u

whatif=${WHATIF:-kubectl-whatif}
path=${WHATIF_PATH:-.}
output=${WHATIF_OUTPUT:-whatif.md}
cluster=${WHATIF_CLUSTER:-}
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
result=0

# Remembers the worst exit code. 3 means that not all could be read, so that nobody knows what is missing.
worst() {
  case $1 in
    0) ;;
    1) [ "$result" -gt 1 ] || result=1 ;;
    *) result=2 ;;
  esac
}

# Adds the file $1 to the output as a block of code, below the title $2.
block() {
  [ -s "$1" ] || return 0
  printf '\n### %s\n\n````text\n' "$2" >> "$output"
  cat "$1" >> "$output"
  printf '````\n' >> "$output"
}

printf '<!-- kubectl-whatif -->\n## NetworkPolicies\n\n' > "$output"

# What the branch changes. If the base lacks the directory, all of it is new.
before="git:$WHATIF_BASE:$path"
if ! git cat-file -e "$WHATIF_BASE:./${path#./}" 2> /dev/null; then
  before="$work/empty"
  mkdir "$before"
fi
set -- plan --before "$before" --after "$path" --fail-on-empty=false -o md
[ -z "$cluster" ] || set -- "$@" -f "$cluster"
[ -z "${WHATIF_FAIL_ON:-}" ] || set -- "$@" --fail-on "$WHATIF_FAIL_ON"
"$whatif" "$@" >> "$output" 2> "$work/plan"
code=$?
# Without a condition, a change is no failure.
[ "$code" -eq 1 ] && [ -z "${WHATIF_FAIL_ON:-}" ] && code=0
worst "$code"
cat "$work/plan" >&2
[ "$code" -le 1 ] || block "$work/plan" "The plan is not complete"

set -- -f "$path"
[ -z "$cluster" ] || set -- -f "$cluster" "$@"
"$whatif" lint "$@" --fail-on "${WHATIF_LINT_FAIL_ON:-warning}" > "$work/lint" 2>&1
worst $?
block "$work/lint" "Lint"
if [ "${WHATIF_ANNOTATE:-}" = github ]; then
  "$whatif" lint "$@" --fail-on never -o github
fi

if [ -n "${WHATIF_TESTS:-}" ]; then
  # Several files are separated by spaces.
  # shellcheck disable=SC2086
  "$whatif" test $WHATIF_TESTS "$@" > "$work/test" 2>&1
  worst $?
  block "$work/test" "Tests"
fi
exit "$result"
