#!/usr/bin/env bash
# From a fresh Debian 12 machine to a served model: installs what is missing, builds, starts the
# server on the bundled nano model, streams one chat answer through gRPC and asks once more over HTTP,
# says how to call it next, and serves until Ctrl-C.
#
#   deploy/quickstart.sh [--once] [--port N] [--http-port N] [--metrics-port N] [MODEL_DIR]
#
#   --once            exit 0 after the answer
#   --port N          gRPC port (default 50051, or any free one when that is taken)
#   --http-port N     OpenAI-compatible HTTP port (default 8000, or any free one when that is taken)
#   --metrics-port N  metrics port (default 9090, or any free one when that is taken)
#   MODEL_DIR         any Hugging Face Qwen3 or Qwen3-MoE folder (default: the bundled nano model)
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"

once=false
port=50051
http_port=8000
metrics_port=9090
model="$root/deploy/models/nano"
while [ $# -gt 0 ]; do
  case "$1" in
    --once) once=true ;;
    --port | --http-port | --metrics-port)
      if ! [[ "${2:-}" =~ ^[0-9]{1,5}$ ]]; then
        echo "quickstart.sh: $1 needs a number (try --help)" >&2
        exit 2
      fi
      case "$1" in
        --port) port="$2" ;;
        --http-port) http_port="$2" ;;
        *) metrics_port="$2" ;;
      esac
      shift
      ;;
    -h | --help) sed -n '2,12p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    -*) echo "quickstart.sh: unknown option '$1' (try --help)" >&2; exit 2 ;;
    *) model="$1" ;;
  esac
  shift
done
# Now, not after the build.
if ! [ -f "$model/config.json" ]; then
  echo "quickstart.sh: '$model' is no model folder: it has no config.json" >&2
  exit 2
fi
model="$(cd "$model" && pwd)"
cd "$root"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

say "1/4  Packages"
deploy/install-deps.sh

say "2/4  Build (the first time takes some minutes)"
cmake --preset cpu-release >/dev/null
cmake --build --preset cpu-release --target tessera
tessera="$root/build/cpu-release/tessera"

say "3/4  Server"
if [ "$port" != 0 ] && ! port_is_free "$port"; then
  echo "Port $port is taken; any free one will do." >&2
  port=0
fi
if [ "$metrics_port" != 0 ] && ! port_is_free "$metrics_port"; then
  echo "Port $metrics_port is taken; any free one will do for metrics." >&2
  metrics_port=0
fi
if [ "$http_port" != 0 ] && ! port_is_free "$http_port"; then
  echo "Port $http_port is taken; any free one will do for HTTP." >&2
  http_port=0
fi
work="$(mktemp -d)"
server=""
cleanup() {
  if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 0' INT TERM
"$tessera" serve "$model" --port "$port" --http-port "$http_port" --metrics-port "$metrics_port" \
  --ready-file "$work/ready" &
server=$!
until [ -s "$work/ready" ]; do
  if ! kill -0 "$server" 2>/dev/null; then
    echo "The server ended before it was ready; its messages are above." >&2
    exit 1
  fi
  sleep 0.05
done
number() { sed -n "s/.*\"$1\"[: ]*\([0-9]*\).*/\1/p" "$work/ready"; }
port="$(number grpc_port)"
http_port="$(number http_port)"
metrics_port="$(number metrics_port)"

say "4/4  One question over gRPC, and one over HTTP"
question="What is 44 + 9809?"
printf '\n> %s\n' "$question"
"$tessera" client "127.0.0.1:$port" --chat "$question" --temperature 0 --max-tokens 256
printf '\n> curl http://127.0.0.1:%s/v1/completions\n' "$http_port"
curl -sS "http://127.0.0.1:$http_port/v1/completions" -H 'Content-Type: application/json' \
  -d '{"prompt": "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n", "temperature": 0, "max_tokens": 64}'
echo

$once && exit 0
cat <<EOF

The server is running. From another terminal:

  $tessera chat 127.0.0.1:$port
  $tessera client 127.0.0.1:$port --chat 'Sort 7, 3, 9.' --enable-thinking=false
  grpcurl -plaintext -d '{"chat":{"messages":[{"role":"user","content":"What is 12 + 30?"}]}}' \\
      127.0.0.1:$port tessera.v1.Inference/Generate
  curl http://127.0.0.1:$http_port/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{"messages":[{"role":"user","content":"What is 12 + 30?"}]}'
  OpenAI(base_url="http://127.0.0.1:$http_port/v1", api_key="any")      # in Python
  python3 deploy/clients/chat.py 127.0.0.1:$port 'What is 12 + 30?'
  curl http://127.0.0.1:$metrics_port/metrics

Press Ctrl-C to stop.
EOF
wait "$server"
