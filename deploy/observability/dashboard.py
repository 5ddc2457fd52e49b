#!/usr/bin/env python3
"""Writes dashboard.json, a Grafana dashboard, from the table below.

  dashboard.py            prints it
  dashboard.py --write    writes dashboard.json beside this file

The JSON is checked in, and the tests compare it with the table and run every query against servers.
"""
import json
import pathlib
import sys

# Selectors that the variables of the dashboard fill in.
SERVICE = 'job=~"$job", model_name=~"$model_name"'                            # recorded: by model
SERVER = 'job=~"$job", model_name=~"$model_name", instance=~"$instance"'      # scraped: by server
PER_SECOND = "[$__rate_interval]"


def quantiles(metric, *by):
    """Queries for three quantiles of a histogram over the chosen servers."""
    labels = ", ".join(("le", *by))
    name = " ".join(f"{{{{{label}}}}}" for label in by)
    return [(f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{SERVER}}}{PER_SECOND})))",
             f"{name} p{int(q * 100)}".strip()) for q in (0.5, 0.95, 0.99)]


def rate(metric, by, legend, more=""):
    return [(f"sum by ({by}) (rate({metric}{{{SERVER}{more}}}{PER_SECOND}))", legend)]


def gauge(metric, legend="{{instance}}", more=""):
    return [(f"{metric}{{{SERVER}{more}}}", legend)]


# Row: [(kind, title, unit, what it tells, [(query, legend)])].
ROWS = {
    "Service": [
        ("stat", "Ready servers", "short", "Servers that take requests.",
         [(f"sum(tessera_ready{{{SERVER}}})", "ready")]),
        ("stat", "Generations/s", "reqps", "Over gRPC and HTTP.",
         [(f"sum(tessera:generations:rate5m{{{SERVICE}}})", "generations")]),
        ("stat", "Failed", "percentunit", "Share that failed by the server's fault in the last hour.",
         [(f"max(tessera:errors:ratio_rate1h{{{SERVICE}}})", "failed")]),
        ("stat", "First token p99", "s", "From arrival to first token, last five minutes.",
         [(f"max(tessera:first_token_seconds:p99_rate5m{{{SERVICE}}})", "p99")]),
        ("stat", "Between tokens p99", "s", "Last five minutes.",
         [(f"max(tessera:inter_token_seconds:p99_rate5m{{{SERVICE}}})", "p99")]),
        ("stat", "Output tokens/s", "short", "Reasoning included.",
         [(f"sum(tessera:generation_tokens:rate5m{{{SERVICE}}})", "tokens")]),
        ("lines", "Calls by method", "reqps", "All calls, also those that generate nothing.",
         rate("tessera_requests_total", "method", "{{method}}")),
        ("lines", "Calls that did not end OK", "reqps", "By status code.",
         rate("tessera_requests_total", "code", "{{code}}", ', code!="OK"')),
        ("lines", "Share of failed generations", "percentunit",
         "The windows of the burn-rate alerts; the budget is 0.1 %.",
         [(f"tessera:errors:ratio_rate{w}{{{SERVICE}}}", f"{{{{model_name}}}} {w}")
          for w in ("5m", "30m", "1h", "2h", "6h", "1d", "3d")]),
        ("lines", "Refused before the queue", "reqps", "By reason.",
         rate("tessera_rejected_total", "reason", "{{reason}}")),
        ("lines", "Refused for their key", "reqps", "By reason.",
         rate("tessera_auth_failures_total", "reason", "{{reason}}")),
        ("lines", "Given up by clients", "reqps", "Cancelled or past their deadline, by stage.",
         rate("tessera_cancelled_total", "stage", "{{stage}}")),
        ("lines", "Finish reasons", "reqps", "Choices that were generated to their end.",
         rate("tessera_request_success_total", "finished_reason", "{{finished_reason}}")),
    ],
    "Latency": [
        ("lines", "Time to first token", "s", "From the arrival of a request.",
         quantiles("tessera_time_to_first_token_seconds")),
        ("lines", "Between tokens", "s", "Of one choice.", quantiles("tessera_inter_token_latency_seconds")),
        ("lines", "Whole request", "s", "From arrival to end.",
         quantiles("tessera_e2e_request_latency_seconds")),
        ("lines", "In the queue", "s", "From arrival to the first step.",
         quantiles("tessera_request_queue_time_seconds")),
        ("lines", "Prefill", "s", "From the first step to the first token.",
         quantiles("tessera_request_prefill_time_seconds")),
        ("lines", "Decode", "s", "From the first token to the last.",
         quantiles("tessera_request_decode_time_seconds")),
    ],
    "Load": [
        ("lines", "Running sequences", "short", "In the batch.", gauge("tessera_num_requests_running")),
        ("lines", "Waiting requests", "short", "For a place in the batch.",
         gauge("tessera_num_requests_waiting")),
        ("lines", "Open calls of those allowed", "percentunit", "Of --max-concurrent-requests.",
         [(f"tessera_active_requests{{{SERVER}}} / ignoring (limit) "
           f'tessera_limit{{{SERVER}, limit="max-concurrent-requests"}}', "{{instance}}")]),
        ("lines", "Queue of what it may hold", "percentunit", "Of --max-queued-tokens.",
         [(f"tessera_num_tokens_waiting{{{SERVER}}} / ignoring (limit) "
           f'tessera_limit{{{SERVER}, limit="max-queued-tokens"}}', "{{instance}}")]),
        ("lines", "Not ready", "short", "1: for this reason.",
         [(f"sum by (instance, reason) (tessera_unready{{{SERVER}}})", "{{instance}} {{reason}}")]),
        ("lines", "Prompt lengths", "short", "Tokens of a request.",
         quantiles("tessera_request_prompt_tokens")),
        ("lines", "Output lengths", "short", "Tokens of a request.",
         quantiles("tessera_request_generation_tokens")),
        ("lines", "Unread output", "bytes", "Waits for clients to read it.",
         gauge("tessera_stream_buffer_bytes")),
        ("lines", "Slow readers ended", "reqps", "Streams whose client did not read.",
         rate("tessera_slow_reader_evictions_total", "instance", "{{instance}}")),
    ],
    "Tenants": [
        ("lines", "Generations/s by tenant", "reqps", "That its limits let in.",
         rate("tessera_tenant_requests_total", "tenant", "{{tenant}}")),
        ("lines", "Tokens/s by tenant", "short", "Prompts and answers.",
         rate("tessera_tenant_tokens_total", "tenant, kind", "{{tenant}} {{kind}}")),
        ("lines", "Open calls by tenant", "short", "Running and waiting.",
         [(f"sum by (tenant) (tessera_tenant_open_requests{{{SERVER}}})", "{{tenant}}")]),
        ("lines", "Waiting requests by tenant", "short", "A long queue of one is in nobody else's way.",
         [(f"sum by (tenant) (tessera_tenant_waiting_requests{{{SERVER}}})", "{{tenant}}")]),
        ("lines", "Waiting prompt tokens by tenant", "short", "Of the requests that wait.",
         [(f"sum by (tenant) (tessera_tenant_waiting_tokens{{{SERVER}}})", "{{tenant}}")]),
        ("lines", "Refused by a limit of the tenant", "reqps", "By limit.",
         rate("tessera_tenant_refused_total", "tenant, limit", "{{tenant}} {{limit}}")),
    ],
    "Engine": [
        ("lines", "Tokens/s", "short", "Prompts in, of those from the prefix cache, output, of that reasoning.",
         rate("tessera_prompt_tokens_total", "job", "prompt")
         + rate("tessera_prompt_tokens_cached_total", "job", "prompt, cached")
         + rate("tessera_generation_tokens_total", "job", "output")
         + rate("tessera_reasoning_tokens_total", "job", "reasoning")),
        ("lines", "KV cache in use", "percentunit", "By running requests.",
         gauge("tessera_kv_cache_usage_ratio")),
        ("lines", "KV blocks", "short", "By state, over the chosen servers.",
         [(f"sum by (state) (tessera_kv_blocks{{{SERVER}}})", "{{state}}")]),
        ("lines", "Prefix cache hits", "percentunit", "Share of prompt tokens found.",
         [(f"tessera:prefix_cache_hits:ratio_rate5m{{{SERVICE}}}", "{{model_name}}")]),
        ("lines", "Preemptions", "ops", "Sequences whose blocks were taken away.",
         rate("tessera_num_preemptions_total", "instance", "{{instance}}")),
        ("lines", "Steps/s", "ops", "By phase.",
         rate("tessera_step_duration_seconds_count", "phase", "{{phase}}")),
        ("lines", "Decode step", "s", "Time of a step that only decodes.",
         [(query.replace(SERVER, f'{SERVER}, phase="decode"'), legend)
          for query, legend in quantiles("tessera_step_duration_seconds")]),
        ("lines", "Tokens per step", "short", "Prefill and decode.", quantiles("tessera_iteration_tokens")),
        ("lines", "Device waits for the host", "s", "Before a step, though there was work.",
         quantiles("tessera_step_host_gap_seconds")),
        ("lines", "Age of the last step", "s", "While there is work; 0 when idle.",
         gauge("tessera_step_age_seconds")),
    ],
    "Ranks and experts": [
        ("lines", "Computing", "percentunit", "Share of the time, by rank; a slow rank has more.",
         rate("tessera_rank_compute_seconds_total", "instance, rank", "{{instance}} {{rank}}")),
        ("lines", "In collectives", "percentunit", "Waiting for slower ranks included.",
         rate("tessera_rank_wait_seconds_total", "instance, rank", "{{instance}} {{rank}}")),
        ("lines", "Collectives", "s", "Time of an operation in a step, mean.",
         [(f"sum by (op) (rate(tessera_collective_seconds_sum{{{SERVER}}}{PER_SECOND})) "
           f"/ (sum by (op) (rate(tessera_collective_seconds_count{{{SERVER}}}{PER_SECOND})) > 0)",
           "{{op}}")]),
        ("lines", "Expert tokens/s", "short", "That a rank's experts computed.",
         rate("tessera_expert_tokens_total", "instance, rank", "{{instance}} {{rank}}")),
        ("lines", "Busiest rank over the mean", "short", "Expert tokens, worst layer of an eighth; 1 is even.",
         [(f"max by (instance, layer_bucket) (tessera_expert_load_ratio{{{SERVER}}})",
           "{{instance}} {{layer_bucket}}")]),
        ("lines", "Layers whose experts moved", "ops", "By result.",
         rate("tessera_expert_moves_total", "result", "{{result}}")),
    ],
    "Process": [
        ("lines", "Memory", "bytes", "Resident.", gauge("process_resident_memory_bytes")),
        ("lines", "CPUs", "short", "In use.", rate("process_cpu_seconds_total", "instance", "{{instance}}")),
        ("lines", "Open files of those allowed", "percentunit", "Connections included.",
         [(f"process_open_fds{{{SERVER}}} / process_max_fds{{{SERVER}}}", "{{instance}}")]),
        ("lines", "Threads", "short", "Of the process.", gauge("process_threads")),
        ("lines", "Uptime", "s", "Since its start.",
         [(f"time() - process_start_time_seconds{{{SERVER}}}", "{{instance}}")]),
        ("lines", "Weights loaded", "percentunit", "While a server starts.",
         gauge("tessera_weights_loaded_ratio")),
        ("lines", "Lost log lines", "ops", "Nobody read stderr in time.",
         rate("tessera_log_lines_dropped_total", "instance", "{{instance}}")),
        ("lines", "Time until the certificate expires", "s", "Without end where there is no TLS.",
         [(f"tessera_certificate_expiry_timestamp_seconds{{{SERVER}}} - time()", "{{instance}}")]),
        ("lines", "Versions", "short", "Servers by version.",
         [(f"sum by (version) (tessera_build_info{{{SERVER}}})", "{{version}}")]),
    ],
}

DATASOURCE = {"type": "prometheus", "uid": "$datasource"}
COLUMNS = 24
SIZES = {"stat": (4, 4), "lines": (8, 8)}  # width, height


def panel(kind, title, unit, description, queries):
    options = ({"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
               if kind == "stat" else
               {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"}})
    return {
        "type": "stat" if kind == "stat" else "timeseries",
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": options,
        "targets": [{"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": expression,
                     "legendFormat": legend, "range": True}
                    for number, (expression, legend) in enumerate(queries)],
    }


def variable(name, query):
    return {"name": name, "type": "query", "datasource": DATASOURCE, "refresh": 2, "sort": 1,
            "query": {"query": query, "refId": name},
            "multi": True, "includeAll": True, "allValue": ".*",
            "current": {"text": "All", "value": "$__all"}}


def placed(rows):
    """All panels with ids and places: a row's heading, then its panels from left to right."""
    panels, top = [], 0
    for row, specs in rows.items():
        panels.append({"type": "row", "title": row, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}})
        top, left, height = top + 1, 0, 0
        for spec in specs:
            wide, high = SIZES[spec[0]]
            if left + wide > COLUMNS or height not in (0, high):
                top, left = top + height, 0
            panels.append(panel(*spec) | {"gridPos": {"x": left, "y": top, "w": wide, "h": high}})
            left, height = left + wide, high
        top += height
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return panels


def dashboard():
    return {
        "uid": "tessera",
        "title": "Tessera",
        "tags": ["tessera"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus"},
            variable("job", "label_values(tessera_ready, job)"),
            variable("model_name", 'label_values(tessera_ready{job=~"$job"}, model_name)'),
            variable("instance",
                     'label_values(tessera_ready{job=~"$job", model_name=~"$model_name"}, instance)'),
        ]},
        "panels": placed(ROWS),
    }


if __name__ == "__main__":
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--write"]:
        (pathlib.Path(__file__).resolve().parent / "dashboard.json").write_text(text)
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        sys.stdout.write(text)
