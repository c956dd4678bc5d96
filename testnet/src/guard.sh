# The guard of an office: waits until its owner lets go of standard input, then takes the office down.
# usage: sh -c THIS guard DIRECTORY CGROUP...
# Kills only what is in the office's own cgroups. Nothing of the office is mounted in the guard's view of
# files, so removing the directory reaches the office's own files only.
cat >/dev/null

directory=$1
shift
case ${directory##*/} in barn-office-*) ;; *) exit 2 ;; esac
for cgroup; do
    case ${cgroup##*/} in barn-office-*) ;; *) exit 2 ;; esac
done

# 200 rounds of 50 ms: a process in the middle of a long write to a disk dies only after it.
round=0
while [ "$round" -lt 200 ]; do
    round=$((round + 1))
    left=0
    for cgroup; do
        [ -d "$cgroup" ] || continue
        pids=$(find "$cgroup" -name cgroup.procs -exec cat {} + 2>/dev/null)
        [ -z "$pids" ] || kill -KILL $pids 2>/dev/null
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
        [ ! -d "$cgroup" ] || left=1
    done
    [ "$left" = 1 ] || break
    sleep 0.05
done
rm -rf --one-file-system "$directory"
[ "$left" = 0 ] && [ ! -e "$directory" ]
