-- wrk's part of the bench of reads: one path after another from a file, under one bearer.
-- Arguments behind `--`: the file, one path a line, and the bearer. The last line printed is JSON for bench/load.py.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  sent, ok, other = 0, 0, 0
  headers = { ["Authorization"] = "Bearer " .. args[2] }
  requests = {}
  for path in io.lines(args[1]) do
    table.insert(requests, wrk.format("GET", path, headers))
  end
end

function request()
  sent = sent + 1
  return requests[sent % #requests + 1]
end

function response(status)
  if status == 200 then ok = ok + 1 else other = other + 1 end
end

function done(summary, latency)
  local total_ok, total_other = 0, 0
  for _, thread in ipairs(threads) do
    total_ok = total_ok + thread:get("ok")
    total_other = total_other + thread:get("other")
  end
  local e = summary.errors
  print(string.format(
    '{"answered":%d,"other":%d,"socket_errors":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d}',
    total_ok, total_other, e.connect + e.read + e.write + e.timeout,
    summary.duration, latency:percentile(50), latency:percentile(99)))
end
