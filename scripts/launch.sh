#!/usr/bin/env bash
# Starts a command as several ranks on this machine: the same command, N times, as one run.
#
#     scripts/launch.sh N COMMAND…      scripts/launch.sh 2 ./train_gpt --preset tiny --train-data … --out out/run
#
# Each line is told with its rank before it. SIGTERM, SIGINT, SIGHUP and SIGUSR1 are passed on to the ranks, which end
# after the step with a checkpoint; the second one ends them at once. When one rank ends badly all end, mpirun names it, and
# the exit code is its own. Ranks share the processors (OMP_NUM_THREADS, where it is not set); nothing binds them to some.
set -euo pipefail

case ${1-} in
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]{0,3}$ ]]; then
    echo "launch.sh: a number of ranks and a command are wanted: scripts/launch.sh 2 ./train_gpt …" >&2
    exit 2
fi
ranks=$1
shift
if ! command -v mpirun >/dev/null; then
    echo "launch.sh: there is no mpirun (Debian: openmpi-bin)" >&2
    exit 2
fi
if ! command -v "$1" >/dev/null; then
    echo "launch.sh: $1: there is no such command" >&2
    exit 2
fi

share=$(($(nproc) / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
options=(--tag-output --oversubscribe --bind-to none -n "$ranks")
[ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)

# "[1,3]<stdout>:text" is told as "3: text". What mpirun says of the rank that failed stands in no rank's line, and is kept.
exec {failed}<> <(:)
with_rank() {
    sed -u -e '/^ *Exit code: *[0-9]\|exited on signal [0-9]/w /dev/fd/'"$failed" -e 's/^\[[0-9]*,\([0-9]*\)\]<std[a-z]*>:/\1: /'
}
exec 3> >(with_rank)
out=$!
exec 4> >(with_rank >&2)
err=$!

# mpirun has a session of its own: the terminal's Ctrl-C comes by way of pass_on alone. At SIGTERM it kills
# its ranks a second later, too soon for a checkpoint; SIGUSR1 it passes on. No rank is on a terminal: lines, no row that is rewritten.
TERM=dumb setsid mpirun "${options[@]}" "$@" </dev/null >&3 2>&4 3>&- 4>&- &
run=$!
asked=0
# shellcheck disable=SC2317 # trap calls it
pass_on() {
    if [ "$asked" = 0 ]; then kill -USR1 "$run"; else kill -TERM "$run"; fi 2>/dev/null || true
    asked=1
}
trap pass_on TERM INT HUP USR1
exec 3>&- 4>&-

# A rank that is stopped while all others wait is found by --timeout. One that is stopped when the others have ended has nobody
# who would miss it, and mpirun would wait for it without end: seen so twice, it is killed. So is mpirun where it has no rank
# left, but for ended ones that it has not asked about, and does not come to its end itself.
end_stuck() {
    local never children left pid state stopped before='' now had_ranks=0 without=0
    exec {never}<> <(:)
    while ! read -rt 2 -u "$never" && kill -0 "$run" 2>/dev/null; do
        left=() stopped=0
        read -ra children <<<"$(cat /proc/"$run"/task/*/children 2>/dev/null)" # of its first thread, as a rule
        for pid in "${children[@]}"; do
            state=$(sed -n 's/^State:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null) || continue
            case $state in Z* | X*) continue ;; T*) stopped=$((stopped + 1)) ;; esac
            left+=("$pid")
        done
        if [ "${#left[@]}" -gt 0 ]; then had_ranks=1 without=0; else without=$((without + had_ranks)); fi
        if [ "$without" -eq 10 ]; then
            echo "launch.sh: the ranks have ended, and mpirun has not in 20 s: killed" >&2
            kill -KILL "$run" 2>/dev/null || true
        fi
        if [ "$stopped" -eq 0 ] || [ "$stopped" -lt "${#left[@]}" ] || [ "${#left[@]}" -ge "$ranks" ]; then continue; fi
        now="${left[*]}"
        if [ "$now" = "$before" ]; then
            echo "launch.sh: the other ranks have ended, and ${#left[@]} is stopped ($now): killed" >&2
            kill -KILL "${left[@]}" 2>/dev/null || true
        fi
        before=$now
    done
}
end_stuck &
watcher=$!

# A signal ends the wait, not the run.
code=0
while :; do
    wait $run && code=0 || code=$?
    kill -0 $run 2>/dev/null || break
done
kill $watcher 2>/dev/null || true
wait $out || true
wait $err || true
# mpirun may die of its own clean-up (139, seen with Open MPI 4.1), behind what it has said of the rank.
if [ "$code" -gt 128 ] && IFS= read -rt 0.1 -u "$failed" said; then
    case $said in
        *'Exit code:'*) own=${said##*[!0-9]} ;;
        *) said=${said##*exited on signal } own=$((128 + ${said%%[!0-9]*})) ;;
    esac
    [ "$own" -eq "$code" ] || echo "launch.sh: mpirun ended with $code in its own clean-up; the rank that failed, with $own" >&2
    code=$own
fi
exit "$code"
