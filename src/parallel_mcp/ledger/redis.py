"""The ledger in Redis, shared by the server processes of several machines.

Redis must keep what it was told: run it with `appendonly yes`, `appendfsync always` and `maxmemory-policy noeviction`.
An entry that Redis loses or evicts is a run that may be bought twice, and money that no budget knows of.

Each method is one script, which Redis runs as a whole, over the keys of one owner:

    parallel-mcp:{owner}:entries    hash     entry id -> what was written down
    parallel-mcp:{owner}:order      sorted   entry ids in the order of their begin
    parallel-mcp:{owner}:created    sorted   "price entry-id" of a day's creates by ledger time: to be paid
    parallel-mcp:{owner}:sums       hash     ten minutes of ledger time -> sum of their created prices
    parallel-mcp:{owner}:pending    sorted   as created, for an hour's intents and unknown outcomes
    parallel-mcp:{owner}:active     sorted   entry ids by the ledger time until which they may be active
    parallel-mcp:{owner}:clock      hash     the ledger's time, and what it was read from
    parallel-mcp:{owner}:key:...    list     entry ids with an idempotency key, newest first
    parallel-mcp:{owner}:same:...   list     entry ids with a fingerprint, newest first

The owner in braces puts them all on the same node of a cluster. An entry id is `<owner>.<random>`, so it leads to them.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel

from parallel_mcp.errors import LedgerUnavailable
from parallel_mcp.ledger import (
    DAY_S,
    FREE_USD,
    HOUR_S,
    KEPT_S,
    SAME_REQUEST_S,
    Begun,
    Entry,
    EntryState,
    Intent,
    KeyConflict,
    Known,
    Limits,
    New,
    OverSpent,
    Period,
    Spent,
    TooManyActive,
)
from parallel_mcp.ledger.clock import Clock, system_clock

if TYPE_CHECKING:
    from redis.asyncio import Redis

CONNECT_S = 2.0
OPERATION_S = 5.0
CONNECTIONS = 16
LATE_S = (
    60.0  # readings of one machine's clocks may arrive in another order than they were made, but not later than this
)

SPAN_S = 600.0  # sums of so much time are kept, so that a day of ten thousand creates need not be added up each time

_KEYS = ("clock", "entries", "order", "created", "sums", "pending", "active")

# Ledger time is the furthest that any machine's uptime has taken it. Each machine is compared with its own last
# reading, so that machines whose wall clocks differ do not push the time forward by taking turns. For a machine that
# was never seen, or has been restarted, there is the wall clock. With one machine this is the rule of `clock.advanced`.
_START = (
    f"""
local HOUR, DAY, KEPT, SAME, FREE = {HOUR_S}, {DAY_S}, {KEPT_S}, {SAME_REQUEST_S}, {FREE_USD}
local LATE, SPAN = {LATE_S}, {SPAN_S}
local CLOCK, ENTRIES, ORDER, CREATED, SUMS, PENDING, ACTIVE, SAME_REQUEST, SAME_KEY = unpack(KEYS)
"""
    + """
local call = redis.call

local function exact(number) return string.format('%.17g', number) end

local function ledger_time(boot, uptime, wall)
  local last = call('HMGET', CLOCK, 'ledger_s', 'wall_s', 'boot:' .. boot)
  local now, last_wall, own = tonumber(last[1] or 0), tonumber(last[2] or wall), last[3]
  local there = nil  -- where this machine's uptime has taken the ledger
  if own then
    local own_uptime, own_ledger = string.match(own, '(%S+) (%S+)')
    local passed = uptime - own_uptime
    if passed >= 0 then
      there = own_ledger + passed
    elseif passed > -LATE then
      return now
    end
  end
  if not there then
    now = now + math.max(0, wall - last_wall)
    there = now
  elseif there < now - LATE then
    there = now  -- another machine's wall clock is that far ahead: agree with it once
  end
  now = math.max(now, there)
  call('HSET', CLOCK, 'ledger_s', exact(now), 'wall_s', exact(wall),
    'boot:' .. boot, exact(uptime) .. ' ' .. exact(there))
  return now
end

local now = ledger_time(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))

local function read(id)
  local packed = call('HGET', ENTRIES, id)
  return packed and cmsgpack.unpack(packed)
end

local function write(id, row) call('HSET', ENTRIES, id, cmsgpack.pack(row)) end

local function span_of(at) return math.floor(at / SPAN) end

local function charge(id, row)
  local one = exact(row.price) .. ' ' .. id
  if row.state == 'created' then
    if call('ZADD', CREATED, row.at, one) == 1 then call('HINCRBYFLOAT', SUMS, span_of(row.at), exact(row.price)) end
  elseif row.state ~= 'failed' then
    call('ZADD', PENDING, row.at, one)
  end
end

local function uncharge(id, row)
  local one = exact(row.price) .. ' ' .. id
  if call('ZREM', CREATED, one) == 1 then call('HINCRBYFLOAT', SUMS, span_of(row.at), exact(-row.price)) end
  call('ZREM', PENDING, one)
end

local function shown(id, row)
  return {id, row.fingerprint, row.key, row.processor, exact(row.price), row.title, row.state, row.handle, row.group,
    exact(row.created_at), exact(now - row.at)}
end

local function after(at) return '(' .. exact(at) end

local function price_of(one) return tonumber(string.match(one, '^%S+')) end

local function total(period)
  local sum, first = 0, span_of(now - period) + 1  -- the first whole span
  local before = call('ZRANGEBYSCORE', CREATED, after(now - period), '(' .. exact(first * SPAN))
  for _, one in ipairs(before) do sum = sum + price_of(one) end
  local spans = {}
  for span = first, span_of(now) do spans[#spans + 1] = span end
  for _, usd in ipairs(call('HMGET', SUMS, unpack(spans))) do sum = sum + (usd or 0) end
  for _, one in ipairs(call('ZRANGEBYSCORE', PENDING, after(now - HOUR), '+inf')) do sum = sum + price_of(one) end
  return sum
end

"""
)

# What nobody asks for any more is forgotten by itself, not before the sweep would have forgotten it.
_END = """
local answer = step()
for _, key in ipairs(KEYS) do
  if call('TTL', key) < KEPT then call('EXPIRE', key, KEPT + 2 * DAY) end
end
return answer
"""

_BEGIN = """
local id, fingerprint, idempotency_key, processor = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local price, lasts, title, runs = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11])
local group = ARGV[15]

local function sweep()
  call('ZREMRANGEBYSCORE', ACTIVE, '-inf', exact(now))
  call('ZREMRANGEBYSCORE', PENDING, '-inf', exact(now - HOUR))
  call('ZREMRANGEBYSCORE', CREATED, '-inf', exact(now - DAY))
  for _, span in ipairs(call('HKEYS', SUMS)) do
    if tonumber(span) < span_of(now - DAY) then call('HDEL', SUMS, span) end
  end
  while true do
    local oldest = call('ZRANGE', ORDER, 0, 0)[1]
    if not oldest or read(oldest).at >= now - KEPT then return end
    call('HDEL', ENTRIES, oldest)
    call('ZREM', ORDER, oldest)
    call('ZREM', ACTIVE, oldest)
  end
end

local function answering()
  local ignored = {}
  for i = 16, #ARGV do ignored[ARGV[i]] = true end
  local list, first = SAME_KEY or SAME_REQUEST, 0
  while true do
    local ids = call('LRANGE', list, first, first + 99)
    for _, earlier in ipairs(ids) do
      local row = read(earlier)
      if not row or (not SAME_KEY and now - row.at >= SAME) then return nil end  -- so are all before it
      if row.state ~= 'failed' and not ignored[earlier] then
        if row.fingerprint ~= fingerprint then return {'conflict'} end
        return {'known', SAME_KEY and 'by key' or '', shown(earlier, row)}
      end
    end
    if #ids == 0 then return nil end
    first = first + #ids
  end
end

-- One charge after the other, the first to leave first: its price, and when it leaves.
local function leaving(charges, stays)
  local chunk, i, first = {}, 1, 0
  return function()
    if i > #chunk then
      chunk, i = call('ZRANGEBYSCORE', charges, after(now - stays), '+inf', 'WITHSCORES', 'LIMIT', first, 500), 1
      first = first + 500
    end
    local one, at = chunk[i], chunk[i + 1]
    i = i + 2
    if one then return price_of(one), at + stays - now end
  end
end

-- As `wait_for_room`: what nobody knows of leaves after an hour, whatever the period.
local function wait_for_room(period, room)
  local spent = total(period)
  if spent <= room + FREE then return 0, spent end
  local next_created, next_pending, left = leaving(CREATED, period), leaving(PENDING, HOUR), spent
  local created_usd, created_in = next_created()
  local pending_usd, pending_in = next_pending()
  while created_usd or pending_usd do
    local gone_in
    if created_usd and (not pending_usd or created_in <= pending_in) then
      left, gone_in = left - created_usd, created_in
      created_usd, created_in = next_created()
    else
      left, gone_in = left - pending_usd, pending_in
      pending_usd, pending_in = next_pending()
    end
    if left <= room + FREE then return gone_in, spent end
  end
  return period, spent
end

local function exceeded()
  local caps = {{'hour', HOUR, tonumber(ARGV[12])}, {'day', DAY, tonumber(ARGV[13])}}
  for _, cap in ipairs(caps) do
    if cap[3] > 0 then
      local frees, spent = wait_for_room(cap[2], cap[3] - price)
      if frees > 0 then return {'overspent', cap[1], exact(spent), exact(frees)} end
    end
  end
  local most, active, counted = tonumber(ARGV[14]), 0, {}
  if most == 0 then return nil end
  for _, one in ipairs(call('ZRANGEBYSCORE', ACTIVE, '(' .. exact(now), '+inf')) do
    local row = read(one)
    if row.state == 'created' or (row.state ~= 'failed' and row.at > now - HOUR) then
      local thing = (row.group ~= '' and row.group) or (row.handle ~= '' and row.handle) or one
      local before = counted[thing] or 0
      counted[thing] = math.max(before, row.runs)
      active = active + counted[thing] - before
    end
  end
  if active + math.max(0, runs - (counted[group] or 0)) > most then return {'too many active', exact(active)} end
end

local function insert()
  local row = {fingerprint = fingerprint, key = idempotency_key, processor = processor, price = price, title = title,
    runs = runs, state = 'intent', handle = '', group = group, at = now, created_at = tonumber(ARGV[3])}
  write(id, row)
  charge(id, row)
  call('ZADD', ORDER, call('HINCRBY', CLOCK, 'entries', 1), id)
  call('ZADD', ACTIVE, now + lasts, id)
  for _, list in ipairs({SAME_REQUEST, SAME_KEY}) do
    call('LPUSH', list, id)
    while call('HEXISTS', ENTRIES, call('LINDEX', list, -1)) == 0 do call('RPOP', list) end
  end
end

local function step()
  if read(id) then return {'new'} end  -- sent a second time, as the answer was lost
  sweep()
  local answer = answering() or exceeded()
  if answer then return answer end
  insert()
  return {'new'}
end
"""

_ATTACH_GROUP = """
local function step()
  local id, group = ARGV[4], ARGV[5]
  local row = read(id)
  if row then
    row.group = group
    write(id, row)
  end
  return row and row.state == 'intent'
end
"""

_GIVE_UP = """
local function step()
  local id = ARGV[4]
  local row = read(id)
  if row and row.group == '' and (row.state == 'intent' or row.state == 'unknown') then
    uncharge(id, row)
    row.state = 'failed'
    write(id, row)
  end
  return row and row.state == 'failed'
end
"""

_SETTLE = """
local function step()
  local id, state, handle, price = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
  local row = read(id)
  if row and (row.state == 'intent' or row.state == 'unknown' or state ~= 'unknown') then
    uncharge(id, row)
    row.state, row.handle, row.price = state, handle, price or row.price
    charge(id, row)
    write(id, row)
  end
end
"""

_OF_GROUP = """
local function step()
  local found, first = {}, 0
  while true do
    local ids = call('ZRANGE', ORDER, first, first + 99, 'REV')
    if #ids == 0 then return found end
    for _, id in ipairs(ids) do
      local row = read(id)
      if now - row.at >= SAME then return found end  -- so are all before it
      if row.group == ARGV[4] and row.state ~= 'failed' then found[#found + 1] = shown(id, row) end
    end
    first = first + #ids
  end
end
"""

_ENTRY = """
local function step()
  local row = read(ARGV[4])
  return row and shown(ARGV[4], row)
end
"""

_NOTE_ENDED = """
local function step()
  for _, id in ipairs(call('ZRANGE', ACTIVE, 0, -1)) do
    if read(id).handle == ARGV[4] then call('ZREM', ACTIVE, id) end
  end
end
"""

_RECENT = """
local function step()
  local most, found, seen, first = tonumber(ARGV[4]), {}, {}, 0
  while true do
    local ids = call('ZRANGE', ORDER, first, first + 99, 'REV')
    if #ids == 0 then return found end
    for _, id in ipairs(ids) do
      if #found >= most then return found end
      local row = read(id)
      if row.state ~= 'failed' and not seen[row.handle] then
        seen[row.handle] = row.handle ~= ''
        found[#found + 1] = shown(id, row)
      end
    end
    first = first + #ids
  end
end
"""

_SPENT = """
local function step() return {exact(total(HOUR)), exact(total(DAY))} end
"""


class RedisLedger:
    """Connects at first use, and again after Redis was away. Errors repeat nothing of the URL: it has a password."""

    def __init__(self, url: str, clock: Clock = system_clock) -> None:
        self._url = url
        self._clock = clock
        self._redis: Redis | None = None

    async def begin(self, intent: Intent, limits: Limits, *, ignore: frozenset[str] = frozenset()) -> Begun:
        """See `Ledger.begin`. The entry's id is given to the script: carried out twice, it still writes one entry."""
        entry_id = f"{intent.owner}.{uuid.uuid4().hex}"
        same = [f"same:{intent.fingerprint}"]
        if intent.idempotency_key:
            same.append(f"key:{intent.idempotency_key}")
        answer = await self._run(
            _BEGIN,
            intent.owner,
            entry_id,
            intent.fingerprint,
            intent.idempotency_key,
            intent.processor,
            intent.price_usd,
            intent.lasts_s,
            intent.title,
            intent.runs,
            limits.usd_per_hour,
            limits.usd_per_day,
            limits.active_runs,
            intent.group_id,
            *ignore,
            more_keys=same,
        )
        return _begun(entry_id, limits, answer)

    async def attach_group(self, entry_id: str, group_id: str) -> bool:
        """See `Ledger.attach_group`."""
        return bool(await self._run(_ATTACH_GROUP, _owner(entry_id), entry_id, group_id))

    async def give_up(self, entry_id: str) -> bool:
        """See `Ledger.give_up`."""
        return bool(await self._run(_GIVE_UP, _owner(entry_id), entry_id))

    async def settle(
        self, entry_id: str, state: EntryState, handle: str = "", *, price_usd: float | None = None
    ) -> None:
        """See `Ledger.settle`."""
        price = "" if price_usd is None else repr(price_usd)
        await self._run(_SETTLE, _owner(entry_id), entry_id, state, handle, price)

    async def of_group(self, owner: str, group_id: str) -> list[Entry]:
        """See `Ledger.of_group`."""
        return [_entry(row) for row in await self._run(_OF_GROUP, owner, group_id)]

    async def entry(self, entry_id: str) -> Entry | None:
        """See `Ledger.entry`."""
        row = await self._run(_ENTRY, _owner(entry_id), entry_id)
        return _entry(row) if row else None

    async def note_ended(self, owner: str, handle: str) -> None:
        """See `Ledger.note_ended`."""
        await self._run(_NOTE_ENDED, owner, handle)

    async def recent(self, owner: str, limit: int) -> list[Entry]:
        """See `Ledger.recent`."""
        return [_entry(row) for row in await self._run(_RECENT, owner, limit)]

    async def spent(self, owner: str) -> Spent:
        """See `Ledger.spent`."""
        last_hour, last_day = await self._run(_SPENT, owner)
        return Spent(float(last_hour), float(last_day))

    async def aclose(self) -> None:
        """See `Ledger.aclose`."""
        client, self._redis = self._redis, None
        if client is not None:
            await client.aclose()

    async def _run(self, script: str, owner: str, *args: str | float, more_keys: list[str] | None = None) -> Any:
        """Carry a script out; a caller who is cancelled meanwhile still leaves it done, and learns its answer."""
        try:
            from redis.exceptions import RedisError
        except ImportError:
            raise LedgerUnavailable(
                "The ledger is in Redis, and the package for it is not installed: install parallel-mcp[redis]"
            ) from None
        await anyio.lowlevel.checkpoint_if_cancelled()
        now = self._clock()
        keys = [f"parallel-mcp:{{{owner}}}:{name}" for name in (*_KEYS, *(more_keys or ()))]
        try:
            self._redis = self._redis or _opened(self._url)
            registered = self._redis.register_script(_START + script + _END)
            with anyio.CancelScope(shield=True):  # bounded by the time-outs of the connection
                return await registered(keys, [now.boot, repr(now.uptime_s), repr(now.wall_s), *args])
        except (RedisError, OSError, ValueError) as error:
            raise LedgerUnavailable(
                f"The ledger that keeps creates from being paid twice cannot be used (Redis: {_reason(error)})"
            ) from None


def _opened(url: str) -> Redis:
    """A client that repeats a script once if the connection broke, which every script allows; not after a time-out."""
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as ConnectionBroke

    pool = BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType] - its options have no types
        url,
        max_connections=CONNECTIONS,
        timeout=OPERATION_S,
        socket_connect_timeout=CONNECT_S,
        socket_timeout=OPERATION_S,
        retry=Retry(NoBackoff(), 1, (ConnectionBroke,)),
        protocol=2,
        decode_responses=True,
    )
    return Redis.from_pool(pool)


def _reason(error: Exception) -> str:
    """What kind of error it was: its text may repeat the password, as a server does that does not know `AUTH`."""
    code = str(error).partition(" ")[0]
    return (
        f"{type(error).__name__} {code}"
        if code.isascii() and code.isalpha() and code.isupper()
        else type(error).__name__
    )


def _owner(entry_id: str) -> str:
    return entry_id.rpartition(".")[0]


def _begun(entry_id: str, limits: Limits, answer: list[Any]) -> Begun:
    match answer:
        case ["known", by_key, row]:
            return Known(_entry(row), by_key=bool(by_key))
        case ["conflict"]:
            return KeyConflict()
        case ["overspent", name, spent, frees]:
            period = cast("Period", name)
            limit = limits.usd_per_hour if period == "hour" else limits.usd_per_day
            return OverSpent(period, limit, float(spent), float(frees))
        case ["too many active", active]:
            return TooManyActive(limits.active_runs, int(active))
        case _:
            return New(entry_id)


def _entry(row: list[str]) -> Entry:
    entry_id, fingerprint, key, processor, price, title, state, handle, group_id, created_at, age = row
    return Entry(
        entry_id=entry_id,
        fingerprint=fingerprint,
        idempotency_key=key,
        processor=processor,
        price_usd=float(price),
        title=title,
        state=cast("EntryState", state),
        handle=handle,
        group_id=group_id,
        created_at=float(created_at),
        age_s=float(age),
    )
