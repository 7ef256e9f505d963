#!/bin/sh
# The long tests, and when they were run last: test_long.sh COMMAND...
set -eu
last=Testing/Tools/last_long_run.txt
if [ -e "$last" ]; then cat "$last"; else echo "The long tests were never run."; fi
begun=$(date +%s)
"$@"
commit=$(git rev-parse --short HEAD 2>/dev/null || echo "no commit")
git diff --quiet HEAD 2>/dev/null || commit="$commit and changes"
echo "The long tests passed last on $(date +%Y-%m-%d) at $commit, in $(( ($(date +%s) - begun) / 60 )) minutes." >"$last"
cat "$last"
