"""Scripts: the operations that Redis does atomically, and the ids of its streams.

If a connection breaks after a command was sent and before the reply, nobody knows whether it was
executed, so it is sent again. To publish only once, each publication has a nonce: a key that holds
the id of the entry, which Redis keeps for longer than anyone retries. The nonce hashes to the same
slot as the stream, which a cluster requires.

A new stream gets a consumer group with a random name, from which nobody reads. The name identifies
the stream, so that one that replaces it is recognised.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

__all__ = ["APPEND", "READ", "START", "STATE", "Position", "State", "parse", "position", "text"]

Position = tuple[int, int]

START = (0, 0)

# KEYS: the stream, the nonce. ARGV: topic, block, count, age in ms or -1 for no trim by age,
# ms to keep the nonce, the name of the stream if it is new
APPEND = """
local known = redis.call('GET', KEYS[2])
if known then return known end
if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[6], '0', 'MKSTREAM')
end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', ARGV[1], ARGV[2])
if ARGV[4] ~= '-1' then
    local since = math.max(0, tonumber(string.match(id, '^%d+')) - tonumber(ARGV[4]))
    redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', since))
end
redis.call('SET', KEYS[2], id, 'PX', ARGV[5])
return id
"""

# KEYS: the stream. ARGV: an id. Returns the values for State.of()
STATE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {'', '0-0', '', 0, 0, 0} end
local info, found = redis.call('XINFO', 'STREAM', KEYS[1]), {}
for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
local group = redis.call('XINFO', 'GROUPS', KEYS[1])[1]
local first = found['first-entry']
return {
    group and group[2] or '?', found['last-generated-id'], first and first[1] or '',
    found['length'], found['entries-added'] or -1, #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
}
"""

# KEYS: the stream. ARGV: an id, a number of entries, bytes of their blocks. Returns the entries
# after the id, up to the one that reaches either limit, and whether there may be more. Reads 8 at
# a time, since it is not known in advance how many fit.
READ = """
local found, after, few = {}, ARGV[1], nil
local count, size = tonumber(ARGV[2]), tonumber(ARGV[3])
repeat
    few = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', 8)
    for _, entry in ipairs(few) do
        found[#found + 1], after = entry, entry[1]
        size = size - #entry[2][2]
        if size <= 0 or #found == count then return {found, 1} end
    end
until #few < 8
return {found, 0}
"""

_NUMBER = "(0|[1-9][0-9]{0,19})"
_ID = re.compile(f"{_NUMBER}-{_NUMBER}")


class State(NamedTuple):
    """The state of a stream.

    stream: its name, b"" if there is no stream. last, oldest: positions; `oldest` is None if the
    stream is empty. whole: whether no entry was ever removed. has: whether an entry with the given
    id exists.
    """

    stream: bytes
    last: Position
    oldest: Position | None
    whole: bool
    has: bool

    @property
    def first(self) -> Position:
        if self.oldest is None:
            return self.last
        milliseconds, sequence = self.oldest
        return (milliseconds, sequence - 1) if sequence else (milliseconds - 1, 2**64 - 1)

    @classmethod
    def of(cls, answer: list[Any]) -> State:
        stream, last, oldest, length, added, has = answer
        return cls(
            stream, position(last), position(oldest) if oldest else None, length == added, has > 0
        )


def position(id: bytes) -> Position:
    milliseconds, _, sequence = id.partition(b"-")
    return int(milliseconds), int(sequence)


def text(position: Position) -> str:
    return f"{position[0]}-{position[1]}"


def parse(id: str) -> Position | None:
    """The position of an id; None unless it is two 64-bit numbers as Redis writes them."""
    found = _ID.fullmatch(id)
    position = (int(found[1]), int(found[2])) if found else None
    return position if position is not None and max(position) < 2**64 else None
