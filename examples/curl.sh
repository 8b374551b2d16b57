#!/bin/sh
# The API by hand. Needs a running server: make run
#   MODELYARD_URL=http://127.0.0.1:8080 MODEL=qwen2.5-0.5b-instruct-q4_k_m examples/curl.sh
set -eu
url=${MODELYARD_URL:-http://127.0.0.1:11435}
model=${MODEL:-yardling}
json='Content-Type: application/json'

ask() { curl --silent --show-error --fail-with-body --header "Authorization: Bearer ${MODELYARD_KEY:-none}" "$@"; echo; }

echo "# every model"
ask "$url/v1/models"

echo "# a chat"
ask "$url/v1/chat/completions" --header "$json" \
  --data '{"model": "'"$model"'", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}'

echo "# the same as a stream"
ask --no-buffer "$url/v1/chat/completions" --header "$json" \
  --data '{"model": "'"$model"'", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20, "stream": true}'

echo "# what is in memory"
ask "$url/admin/status"

echo "# out of memory, with a receipt"
ask --request POST "$url/admin/models/$model/unload"
