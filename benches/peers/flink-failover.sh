#!/usr/bin/env bash
# What the failover benchmark needs of a Flink that flink.sh (its first argument) runs, beyond flink.sh's own commands:
#   flink-failover.sh FLINK_SH submit SCRIPT [REST]  submit a script with a statement set; prints the job id
#   flink-failover.sh FLINK_SH revive NAME           start a process of it again: zk1..3, jm1..2, tm1..2
# WORK, TUNED and the like mean what they mean to flink.sh.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
FLINK_SH=$(realpath "$1")
COMMAND=$2
ARGUMENT=$3
REST=${4:-127.0.0.1:8081}
# flink.sh is read for its functions; as a command it only prints a pid here.
mkdir -p "$(realpath -m "${WORK:-target/peers/flink}")/log"
probe=$(realpath -m "${WORK:-target/peers/flink}")/log/none.pid
echo 0 >"$probe"
set -- pid none
# shellcheck disable=SC1090
. "$FLINK_SH" >/dev/null
rm -f "$probe"
case $COMMAND in
  submit)
    jar=$WORK/statement-set.jar
    if [ "$HERE/StatementSet.java" -nt "$jar" ]; then
      mkdir -p "$WORK/statement-set"
      javac -cp "$(flink_cp)" -d "$WORK/statement-set" "$HERE/StatementSet.java"
      jar cfe "$jar" StatementSet -C "$WORK/statement-set" .
    fi
    # shellcheck disable=SC2086
    FLINK_CONF_DIR=$WORK/conf1 java -Xmx512m $OPENS $LOG -cp "$(flink_cp)" org.apache.flink.client.cli.CliFrontend \
      run -d -m "$REST" -c StatementSet "$jar" "$(realpath "$ARGUMENT")" 2>&1 | tee "$WORK/log/submit.log" |
      sed -n 's/.*JobID \([0-9a-f]*\).*/\1/p'
    ;;
  revive)
    case $ARGUMENT in
      zk*) zookeeper "${ARGUMENT#zk}" ;;
      jm*) jobmanager "${ARGUMENT#jm}" ;;
      tm*) taskmanager "${ARGUMENT#tm}" ;;
    esac
    ;;
  *)
    sed -n 2,5p "$0"
    exit 2
    ;;
esac
