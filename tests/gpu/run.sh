#!/usr/bin/env bash
# The first minutes on a machine with GPUs: starts in a bundle (bundle.sh), needs bash and coreutils.
#
#   ./run.sh [--emulated] [FOLDER]
#
# Runs one stage after the other (stages.sh), each within its own time, goes on when one fails, and is
# through in 9 minutes. FOLDER (default $OUT, else results) gets a log of each stage and summary.json.
# Exit code: 0 when every stage passed or had nothing to do, 1 when one failed, 77 without a GPU.
# --emulated: a rehearsal with emulated GPUs and small sizes, on any machine, in two minutes.
set -uo pipefail
bundle="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export bundle
export backend=cuda self_test=gpu_self_test
patience=1
if [ "${1:-}" = --emulated ]; then
  backend=cuda-emulated
  self_test=gpu_self_test_emulated
  patience=4 # the machine may have other things to do
  shift
fi
out="${1:-${OUT:-results}}"
mkdir -p "$out"
out="$(cd "$out" && pwd)" || exit 2
export out
readonly total_seconds=530 kill_after=5

# NAME SECONDS WHAT; stages.sh has a function for each.
stages="
facts 40 the GPUs, their links, and what copies and launches take
instructions 30 every instruction that kernels use, against what the emulator does
operations 70 every operation against its formula
bits 40 the same bits alone, in any batch, chunk, order of blocks and graph
models 50 reference checkpoints and nano against transformers
serve 40 nano through gRPC: the tokens of the CPU in float32
company 30 nano through gRPC: the same bits alone and in company
sanitizer 50 compute-sanitizer on small shapes
kernels 90 operations of a step against the limits of memory and tensor cores
steps 140 steps of a model with random weights
"

json_text() { # a JSON string of the text on stdin
  sed -e 's/\\/\\\\/g; s/"/\\"/g; s/\t/ /g; s/\r//g' | tr -d '\000-\010\013-\037' | paste -sd ' ' | sed 's/^.*$/"&"/'
}

run_stage() { # NAME SECONDS WHAT: one line of the summary, one entry of $results
  local name="$1" limit=$(($2 * patience)) what="$3" log="$out/$1.log" start=$SECONDS left status code note
  left=$((total_seconds - SECONDS - kill_after))
  if [ "$left" -lt "$limit" ]; then limit="$left"; fi
  if [ "$limit" -le 0 ]; then
    code=124
    echo "no time was left for this stage" >"$log"
  else
    timeout -k "$kill_after" "$limit" bash "$bundle/stages.sh" "$name" >"$log" 2>&1 </dev/null
    code=$?
  fi
  case "$code" in
    0) status=passed ;;
    77) status=skipped ;;
    124 | 137) status="timed out" ;;
    *) status=failed ;;
  esac
  note="$(grep -v '^[[:space:]]*$' "$log" | tail -n 1 | cut -c1-300)"
  printf '%-9s %4s s  %-12s %s\n' "$status" $((SECONDS - start)) "$name" "$what" | tee -a "$out/summary.txt"
  if [ "$status" != passed ]; then printf '%18s%s\n' '' "$note" | tee -a "$out/summary.txt"; fi
  results+="${results:+,}
    {\"stage\": \"$name\", \"status\": \"$status\", \"seconds\": $((SECONDS - start)),"
  results+=" \"limit_seconds\": $limit, \"exit_code\": $code, \"last_line\": $(json_text <<<"$note")}"
  case "$status" in passed | skipped) return 0 ;; *) return 1 ;; esac
}

json_file() { if [ -s "$out/$1" ]; then cat "$out/$1"; else echo null; fi; }
json_lines() { if [ -s "$out/$1" ]; then echo "[$(paste -sd , "$out/$1")]"; else echo null; fi; }

write_json() {
  cat >"$out/summary.json" <<END
{
  "commit": "$(cat "$bundle/commit")",
  "date": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "backend": "$backend",
  "seconds": $SECONDS,
  "passed": $passed,
  "stages": [$results
  ],
  "device": $(json_file device.json),
  "kernels": $(json_lines kernels.jsonl),
  "steps": $(json_lines steps.jsonl)
}
END
}

rm -f "$out"/*.log "$out"/*.json "$out"/*.jsonl "$out/summary.txt"
if ! "$bundle/program" "$self_test" --gtest_list_tests >"$out/start.log" 2>&1; then
  echo "run.sh: the programs of this bundle do not start here: $(tail -n 1 "$out/start.log")" >&2
  exit 1
fi
echo "== tessera $(cut -c1-12 "$bundle/commit") on $backend, $(date -u '+%Y-%m-%d %H:%M UTC')" | tee "$out/summary.txt"
results="" passed=true
while read -r name limit what; do
  [ -n "$name" ] || continue
  run_stage "$name" "$limit" "$what" || passed=false
  # Without a GPU there is nothing to go on with.
  if [ "$name" = facts ] && grep -q '"exit_code": 77' <<<"$results"; then
    write_json
    tail -n 1 "$out/facts.log" >&2
    exit 77
  fi
done <<<"$stages"
write_json

printf '\n== summary\n'
cat "$out/summary.txt"
echo "details: $out"
$passed
