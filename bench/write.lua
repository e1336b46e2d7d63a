-- wrk's part of the bench: one fact per request, with an entity that no other request of the run has.
-- Arguments behind `--`: the run's name and the bearer. The last line printed is JSON for bench/load.py.

local threads = {}

function setup(thread)
  thread:set("number", #threads + 1)
  table.insert(threads, thread)
end

function init(args)
  sent, created, other = 0, 0, 0
  run = args[1]
  headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. args[2] }
end

function request()
  sent = sent + 1
  local body = '{"entity":"stigmem://bench.example/user/' .. run .. "-" .. number .. "-" .. sent
    .. '","relation":"memory:role","value":{"type":"string",'
    .. '"v":"maintainer of the billing service, on call in May"},'
    .. '"source":"stigmem://bench.example/agent/writer","confidence":0.9,"scope":"company"}'
  return wrk.format("POST", nil, headers, body)
end

function response(status)
  if status == 201 then created = created + 1 else other = other + 1 end
end

function done(summary, latency)
  local total_created, total_other = 0, 0
  for _, thread in ipairs(threads) do
    total_created = total_created + thread:get("created")
    total_other = total_other + thread:get("other")
  end
  local e = summary.errors
  print(string.format(
    '{"created":%d,"other":%d,"socket_errors":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d}',
    total_created, total_other, e.connect + e.read + e.write + e.timeout,
    summary.duration, latency:percentile(50), latency:percentile(99)))
end
