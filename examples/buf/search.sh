#!/usr/bin/env bash
# Stores, searches and deletes with `buf curl`: examples/buf/search.sh [HOST:PORT] [SCHEMA]
#
# SCHEMA is where buf reads the API: nothing for the server's reflection, or this checkout's folder where a server has that
# switched off. BUF names the program (`pip install buf-bin`). With TLS: https:// in the place of http://, and
# --cacert ca.pem; with a key: --header "Authorization: Bearer $CLIP_SEARCH_API_KEY".
set -euo pipefail

server=${1:-localhost:50051}
schema=${2:-}
buf=${BUF:-buf}

# call SERVICE METHOD: send the JSON on stdin, print the answer as JSON.
call() {
  local from=()
  [ -z "$schema" ] || from=(--schema "$schema")
  "$buf" curl --protocol grpc --http2-prior-knowledge "${from[@]}" --data @- "http://$server/clip_search.v1.$1/$2"
}

call IndexService Upsert <<'JSON'
{"items": [
  {"id": "example/apple", "content": {"text": "a red apple"}, "attributes": {"kind": {"stringValue": "fruit"}}},
  {"id": "example/pear", "content": {"text": "a green pear"}, "attributes": {"kind": {"stringValue": "fruit"}}},
  {"id": "example/whale", "content": {"text": "a whale in the sea"}, "attributes": {"kind": {"stringValue": "animal"}}}
]}
JSON

call SearchService Search <<'JSON'
{"parts": [{"content": {"text": "an animal that swims"}}], "limit": 1,
 "filter": {"equals": {"attribute": "kind", "value": {"stringValue": "animal"}}}}
JSON

# A picture is base64 in JSON: {"content": {"image": "'"$(base64 -w0 dog.jpg)"'"}}.

call SearchService Search <<'JSON' || echo "refused"
{"parts": [{"content": {"text": ""}}]}
JSON

call IndexService Delete <<'JSON'
{"ids": {"ids": ["example/apple", "example/pear", "example/whale"]}}
JSON
