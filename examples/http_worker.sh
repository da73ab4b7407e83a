#!/bin/sh
# A worker in POSIX shell with curl: claims runs of a pool over HTTP, and runs a command for each.
#
#     DISPATCHER_API_URL=http://127.0.0.1:4200 sh http_worker.sh POOL COMMAND [ARGUMENT]...
#
# The command reads the run as JSON from its input: a list with one object, whose `flow_run` is what
# was submitted. Exit code 0 completes the run, any other fails it. Protocol: docs/http.md
set -u
api=${DISPATCHER_API_URL:-http://127.0.0.1:4200}/api pool=$1 id='' child=''
shift
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
quoted() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; } # as curl's options and JSON have it
{ # options of curl that no process list is to show
    [ -z "${DISPATCHER_API_TOKEN-}" ] ||
        printf 'header = "Authorization: Bearer %s"\n' "$(quoted "$DISPATCHER_API_TOKEN")"
    [ -z "${DISPATCHER_API_AUTH_STRING-}" ] ||
        printf 'user = "%s"\n' "$(quoted "$DISPATCHER_API_AUTH_STRING")"
} >"$dir/login"

call() { # NAME PATH JSON: send it until there is an answer, kept as NAME; fails if that is no 200
    while :; do
        status=$(printf '%s' "$3" | curl --silent --config "$dir/login" --max-time 90 \
            --header 'Content-Type: application/json' --header 'Prefer: wait=60' --data-binary @- \
            --dump-header "$dir/$1.head" --output "$dir/$1" --write-out '%{http_code}' "$api/$2")
        case $status in 200) return 0 ;; 000 | 5??) sleep 1 ;; *) return 1 ;; esac
    done
}
header() { # NAME HEADER: print a header of the answer that was kept as NAME
    tr -d '\r' <"$dir/$1.head" | awk -F ': ' -v name="$2" 'tolower($1) == name { print $2 }'
}
step() { # NAME JSON-MEMBERS: do a step of the run that is claimed
    call "$1" "flow_runs/$id/$1" "{\"token\": \"$DISPATCHER_RUN_FENCING_TOKEN\"$2}"
}
keep() { # renew while this worker lives and its claim does; else the work must stop
    while sleep "$period" && kill -0 $$ 2>/dev/null && step renew '' &&
        [ "$(header renew dispatcher-answer)" = renewed ]; do :; done
    kill "$child"
}
output() { # print the end of what the command wrote, in ASCII, as a JSON string has it
    tail -c 60000 "$dir/output" | LC_ALL=C tr -cd '\n\040-\176' |
        sed 's/[\\"]/\\&/g' | awk '{ printf "%s\\n", $0 }'
}
trap '[ "$child" ] && kill "$child" && step release ", \"reason\": \"stopped\""; exit 143' TERM INT

while call claim "work_pools/$pool/claim" "{\"worker\": \"$(quoted "$(uname -n)")\"}"; do
    id=$(header claim dispatcher-run-id) ms=$(header claim dispatcher-renew-ms)
    [ "$id" ] || continue # nothing came in a minute
    export DISPATCHER_RUN_ID="$id" DISPATCHER_RUN_DELIVERY="$(header claim dispatcher-delivery)"
    export DISPATCHER_RUN_FENCING_TOKEN="$(header claim dispatcher-fencing-token)"
    period=$((ms / 1000)).$(printf '%03d' $((ms % 1000)))
    step start '' || continue # it is another's by now
    [ "$(header start dispatcher-answer)" = started ] ||
        { step finish ', "state": {"type": "CANCELLED"}' && continue; }
    "$@" <"$dir/claim" >"$dir/output" 2>&1 &
    child=$!
    keep &
    wait "$child" && state='"COMPLETED"' || state="\"FAILED\", \"message\": \"exit code $?\""
    kill $! 2>/dev/null
    child=''
    step finish ", \"state\": {\"type\": $state}, \"output\": \"$(output)\"" # 409: it was lost
done
echo "http_worker: the claim was refused: $(cat "$dir/claim")" >&2
exit 1
