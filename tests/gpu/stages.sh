#!/usr/bin/env bash
# The stages of run.sh: stages.sh NAME, with bundle, out, backend and self_test in the environment. Exit
# code 77: nothing to do here, and the last line says why. What a stage starts ends with its process
# group, at the latest by run.sh's time limit.
set -euo pipefail

nano="$bundle/models/nano"
export TESSERA_TEST_DATA="$bundle/data" TESSERA_NANO_MODEL="$nano"
emulated=false
if [ "$backend" = cuda-emulated ]; then
  emulated=true
  # The rehearsal is of this script: other tests look for races.
  export TESSERA_EMULATION_RACES=0 TESSERA_EMULATION_PREEMPT=0 TESSERA_EMULATION_GPUS=2
fi

program() { "$bundle/program" "$@"; }
pick() { if $emulated; then echo "$2"; else echo "$1"; fi; } # REAL EMULATED
skip() { echo "$*"; exit 77; }

# Tests of gpu_tests that match PATTERN, on this backend; none at all is a failure. Their names end with
# the backend, or have its cases in front of the dtype.
tests() { # PATTERN...
  local filter="" pattern log
  for pattern in "$@"; do
    if $emulated; then
      filter+="${filter:+:}$pattern*cuda_emulated*"
    else
      filter+="${filter:+:}$pattern/cuda_f32*:$pattern/cuda_bf16*:$pattern/*cuda"
    fi
  done
  log="$(mktemp "$out/tests.XXXXXX")"
  if ! program gpu_tests --gtest_filter="$filter" >"$log" 2>&1; then
    cat "$log"
    grep -c '^\[  FAILED  \] .*ms)$' "$log" | sed 's/$/ tests failed/'
    rm "$log"
    return 1
  fi
  cat "$log"
  grep -q '^\[  PASSED  \] [1-9]' "$log" || { rm "$log"; echo "no test matches $filter"; return 1; }
  rm "$log"
}

facts() {
  program "$self_test" --facts "$out/device.json"
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi -q || true
    nvidia-smi topo -m || true
  fi
}

instructions() { program "$self_test"; }

operations() {
  if $emulated; then
    tests '*RowOpsTest.*' '*ExpertOpsTest.AddsRanksInOrder'
  else
    tests '*RowOpsTest.*' '*GemmTest.*' '*/AttentionTest.*' '*MoeTest.*' '*SampleTest.*' '*ExpertOpsTest.*'
  fi
}

bits() {
  if $emulated; then
    tests '*BatchInvarianceTest.RmsNorm' '*StepGraphsTest.GiveTheBitsOfEnqueuedSteps/dense_bfloat16'
  else
    tests '*InvarianceTest.*' '*StepGraphsTest.*'
  fi
}

models() {
  if $emulated; then
    tests '*ReferenceModelTest.Float32EqualsTransformers/dense_bias'
  else
    tests '*ReferenceModelTest.*' '*/BackendTest.*'
  fi
}

# Starts a server of nano; sets server (not a subshell: it gets the signal) and address.
start_server() { # DTYPE
  rm -f "$out/ready.json"
  "$bundle/program" tessera serve "$nano" --backend "$backend" --dtype "$1" --port 0 --metrics-port 0 \
    --kv-cache-memory "$(pick 1GiB 4MiB)" --ready-file "$out/ready.json" &
  server=$!
  trap 'kill -KILL "$server" 2>/dev/null || true' EXIT
  while [ ! -s "$out/ready.json" ]; do
    kill -0 "$server" 2>/dev/null || { echo "the server ended before it was ready"; return 1; }
    sleep 0.1
  done
  address="127.0.0.1:$(sed -n 's/.*"grpc_port": *\([0-9]*\).*/\1/p' "$out/ready.json")"
}

stop_server() { # it has to end well
  kill -TERM "$server"
  wait "$server" || { echo "the server ended with exit code $?"; return 1; }
  trap - EXIT
}

ids_of() { sed -n 's/.*"token_ids":\(\[[0-9,]*\]\).*/\1/p' "$1"; } # FILE

serve() {
  local request=(--chat "What is 44?" --temperature 0 --ignore-eos --max-tokens "$(pick 64 2)" --json)
  program tessera generate "$nano" --backend cpu --dtype float32 "${request[@]}" >"$out/tokens.cpu.json"
  start_server float32
  program tessera client "$address" "${request[@]}" >"$out/tokens.gpu.json"
  stop_server
  echo "cpu      $(ids_of "$out/tokens.cpu.json")"
  echo "$backend $(ids_of "$out/tokens.gpu.json")"
  [ -n "$(ids_of "$out/tokens.cpu.json")" ]
  [ "$(ids_of "$out/tokens.cpu.json")" = "$(ids_of "$out/tokens.gpu.json")" ] ||
    { echo "the tokens differ"; return 1; }
}

company() {
  local tokens others=() i
  tokens="$(pick 64 2)"
  local request=(--prompt "The answer to" --seed 7 --temperature 1 --ignore-eos --max-tokens "$tokens"
    --logprobs 2 --json)
  start_server bfloat16
  program tessera client "$address" "${request[@]}" >"$out/alone.json"
  for ((i = 0; i < $(pick 12 1); ++i)); do
    program tessera client "$address" --prompt "Count to $i" --ignore-eos --max-tokens "$tokens" >/dev/null &
    others+=($!)
  done
  program tessera client "$address" "${request[@]}" >"$out/company.json"
  wait "${others[@]}"
  stop_server
  # The second time the prompt is in the prefix cache.
  sed -i 's/"cached_tokens":[0-9]*//' "$out/alone.json" "$out/company.json"
  grep -q '"logprob":' "$out/alone.json"
  cmp "$out/alone.json" "$out/company.json"
  echo "$tokens tokens and their log probabilities are the same to the last bit"
}

sanitizer() {
  $emulated && skip "the emulator checks every access itself"
  local tool
  tool="$(PATH="$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer" command -v compute-sanitizer)" ||
    skip "compute-sanitizer is not on this machine"
  local check
  for check in memcheck racecheck; do
    "$tool" --tool "$check" --error-exitcode 1 --target-processes all "$bundle/program" gpu_tests \
      --gtest_filter='*RowOpsTest.*/cuda_*:*MoeTest.*/cuda_*:*GemmTest.TableEntries*/cuda_*'
  done
}

# Bytes per second of a copy, as the stage facts has measured it: what others are compared with.
bandwidth() {
  awk -F: '/"memory_bytes_per_second"/ { sub(/,/, "", $2); printf "%.0f", $2 }' "$out/device.json"
}

kernels() {
  local name
  name="$(sed -n 's/^ *"name": "\(.*\)",$/\1/p' "$out/device.json" | head -n 1)"
  program gpu_tests --shares --backend="$backend" --bandwidth="$(bandwidth)" --gpu="$name" \
    --json="$out/kernels.jsonl" $(pick "" --small)
}

# One line of steps.jsonl.
bench() { # MODEL MODE INPUT OUTPUT CONCURRENCY REQUESTS
  program tessera bench "$2" "$1" --backend "$backend" --kv-cache-memory "$(pick 16GiB 4MiB)" \
    --memory-bandwidth "$(bandwidth | awk '{ print $1 / 1e9 }')" --input-len "$3" --output-len "$4" --concurrency "$5" --num-requests "$6" --json >>"$out/steps.jsonl"
  echo "$2, $3 tokens in, $4 out, $5 at a time: $(tail -n 1 "$out/steps.jsonl")"
}

steps() {
  if $emulated; then
    bench "$nano" latency 2 2 1 1
    return
  fi
  # Eight of the 48 layers of Qwen3-30B-A3B: what a step of the whole model takes is not their multiple
  # (embedding, sampling and the product with the vocabulary come once), but each kernel's share is.
  local shape=qwen3-30b-a3b-8l need_kib=$((12 << 20)) free_kib
  checkpoint="$(mktemp -d)"
  trap 'rm -rf "$checkpoint"' EXIT
  free_kib="$(df -Pk "$checkpoint" | awk 'NR == 2 { print $4 }')"
  [ "$free_kib" -gt "$need_kib" ] || skip "random weights need 12 GiB of disk; ${checkpoint%/*} has $((free_kib >> 20))"
  echo "random weights: $shape (8 of 48 layers)"
  program make_checkpoint --shape "$shape" --out "$checkpoint/model" --tokenizer "$nano"
  local batch
  for batch in 1 8 32 128; do
    bench "$checkpoint/model" throughput 16 64 "$batch" "$batch"
  done
  bench "$checkpoint/model" latency 4096 2 1 3
}

"$1"
