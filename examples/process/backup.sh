#!/bin/sh
# Saves a region: ./backup.sh REGION. An exit code other than 0 means FAILED, and with a policy of
# retries the run comes again; SIGTERM means that it is to stop: cancelled, too late, or given back.
trap 'echo "stopped, and tidied up"; exit 1' TERM
if [ "$DISPATCHER_RUN_DELIVERY" -lt 2 ]; then
    echo "the disk of $1 is asleep" >&2
    exit 75
fi
echo "saved $1 at delivery $DISPATCHER_RUN_DELIVERY"
