#!/usr/bin/env bash
# Four hosts with two ranks each, made of network namespaces joined by a bridge, with 1 ms delay and
# 0.1 % loss where the kernel has netem: the tokens of nano equal those of a single process. Then a
# host is cut off while the group computes: everyone's watchdog ends the group.
# Exits 77, saying why, where namespaces are not permitted.
#
#   CLUSTER_NODE=… TESSERA_NANO_MODEL=… tests/fault/multi_host_test.sh
set -euo pipefail

readonly HOSTS=4 STEPS=24 PORT=50052 LIMIT=3
: "${CLUSTER_NODE:?}" "${TESSERA_NANO_MODEL:?}"

skip() {
  echo "skipped: $1"
  exit 77
}

# Everything happens in namespaces of our own, which vanish with the last process.
if [[ "${1:-}" != inside ]]; then
  command -v ip > /dev/null || skip "the ip command (iproute2) is not installed"
  error=$(unshare --map-root-user --net --mount --pid --fork true 2>&1) ||
    skip "user and network namespaces are not permitted here: $error"
  exec unshare --map-root-user --net --mount --pid --fork --mount-proc --kill-child "$0" inside
fi

mount -t tmpfs tmpfs /run 2> /dev/null || skip "mounting a private /run is not permitted here"
mkdir /run/netns
work=$(mktemp -d /run/multi-host.XXXXXX)
ip link add hub type bridge 2> "$work/error" || skip "bridges cannot be made: $(< "$work/error")"
ip link set hub up
netem=""
for ((i = 0; i < HOSTS; ++i)); do
  ip netns add "host$i" 2> "$work/error" ||
    skip "named network namespaces cannot be made: $(< "$work/error")"
  ip link add "port$i" type veth peer name eth0 netns "host$i" 2> "$work/error" ||
    skip "veth pairs cannot be made: $(< "$work/error")"
  ip link set "port$i" master hub up
  ip -n "host$i" link set lo up
  ip -n "host$i" address add "10.77.0.$((i + 1))/24" dev eth0
  ip -n "host$i" link set eth0 up
  ip netns exec "host$i" tc qdisc add dev eth0 root netem delay 1ms loss 0.1% 2>&1 |
    tr '\n' ' ' > "$work/netem" || netem=$(< "$work/netem")
done
echo "$HOSTS hosts; ${netem:+without }1 ms delay and 0.1 % loss${netem:+: $netem}"

head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$work/key"
"$CLUSTER_NODE" head 1 1 "$HOSTS" 0 none none "$TESSERA_NANO_MODEL" "$STEPS" 60 |
  grep '^tokens' > "$work/expected"

pids=()
start_workers() {
  pids=()
  for ((i = 1; i < HOSTS; ++i)); do
    # One node names its interface; the others find the address that leads to the head.
    ip netns exec "host$i" "$CLUSTER_NODE" worker "10.77.0.1:$PORT" "$work/key" \
      "$TESSERA_NANO_MODEL" $([[ $i == 1 ]] && echo eth0) > "$work/worker$i" 2>&1 &
    pids+=($!)
  done
}
fail() {
  tail -n 5 "$work/head" "$work"/worker*
  echo "failed: $1"
  exit 1
}

start_workers
code=0
ip netns exec host0 "$CLUSTER_NODE" head "$HOSTS" 2 "$HOSTS" 1 "eth0:$PORT" "$work/key" \
  "$TESSERA_NANO_MODEL" "$STEPS" 60 > "$work/head" 2>&1 || code=$?
for pid in "${pids[@]}"; do
  wait "$pid" || code=$?
done
grep '^tokens' "$work/head" > "$work/tokens" || true
((code == 0)) || fail "exit code $code"
diff "$work/expected" "$work/tokens" || fail "different tokens"
echo "ok: $((2 * HOSTS)) ranks on $HOSTS hosts wrote the same tokens as one rank per text"

start_workers
: > "$work/head"  # what the first head wrote must not be taken for the second one's
ip netns exec host0 "$CLUSTER_NODE" head "$HOSTS" 2 "$HOSTS" 1 "eth0:$PORT" "$work/key" \
  "$TESSERA_NANO_MODEL" 1000000 "$LIMIT" > "$work/head" 2>&1 &
head=$!
for ((t = 0; t < 600; ++t)); do
  grep -q '^step 5$' "$work/head" && break
  sleep 0.1
done
grep -q '^step 5$' "$work/head" || fail "no step within a minute"
since=$(date +%s%3N)
ip link set "port$((HOSTS - 1))" down
code=0
wait "$head" || code=$?
took=$(($(date +%s%3N) - since))
((code != 0)) || fail "the head ended in order although a host was cut off"
((took >= 1000 * LIMIT - 1000 && took <= 1000 * LIMIT + 3000)) || fail "it took $took ms"
for pid in "${pids[@]}"; do
  code=0
  wait "$pid" || code=$?
  ((code != 0)) || fail "a worker ended in order although a host was cut off"
done
took=$(($(date +%s%3N) - since))
((took <= 1000 * LIMIT + 6000)) || fail "the workers took $took ms"
echo "ok: a host was cut off, everyone had ended after $took ms (limit: $LIMIT s)"
