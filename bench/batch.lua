-- wrk's part of the bench of batches: as many facts per request as the third argument says, the facts those of write.lua.
-- Arguments behind `--`: the run's name, the bearer, facts per batch. The last line printed is JSON for bench/load.py.

local threads = {}

function setup(thread)
  thread:set("number", #threads + 1)
  table.insert(threads, thread)
end

function init(args)
  sent, created, other = 0, 0, 0
  run, size = args[1], tonumber(args[3])
  headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. args[2] }
end

function request()
  sent = sent + 1
  local facts = {}
  for index = 1, size do
    facts[index] = '{"entity":"stigmem://bench.example/user/' .. run .. "-" .. number .. "-" .. sent .. "-" .. index
      .. '","relation":"memory:role","value":{"type":"string",'
      .. '"v":"maintainer of the billing service, on call in May"},'
      .. '"source":"stigmem://bench.example/agent/writer","confidence":0.9,"scope":"company"}'
  end
  return wrk.format("POST", nil, headers, '{"facts":[' .. table.concat(facts, ",") .. "]}")
end

-- An answer is 201 whatever became of its facts: one in which a fact was refused counts as another answer.
function response(status, _, body)
  if status == 201 and body:find('"rejected":0,', 1, true) then created = created + 1 else other = other + 1 end
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
