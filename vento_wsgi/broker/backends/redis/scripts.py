"""Scripts: what Redis does in one step, and the ids of its streams.

A connection can break when a command has been sent and not been answered: whether it was done
is not known then, and it is sent again. So a publication has a nonce, which Redis keeps for
longer than anybody tries, with the id that was given. Its key is in the slot of the stream, as
clusters want it.

Whoever makes the stream gives it a consumer group with a random name, which nobody reads from:
it tells the stream from another that has taken its place.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

__all__ = ["APPEND", "READ", "START", "STATE", "Position", "State", "parse", "position", "text"]

Position = tuple[int, int]

START = (0, 0)

# KEYS: the stream, the nonce. ARGV: topic, block, count, age in ms or -1 for no trim,
# ms to keep the nonce, a name for the stream if it is new
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

# KEYS: the stream. ARGV: an id. Returns what State has
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
# after the id, up to the one that reaches either, and whether there may be more. It looks at a
# few at a time, since how many fit is not known before
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
    """stream: which one it is, b"" if there is none. oldest: None if it is empty.

    whole: whether it still has all it was given. has: whether there is an entry with the id
    that was asked for.
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
    """The position of what may be an id: two numbers of 64 bits, as Redis writes them."""
    found = _ID.fullmatch(id)
    position = (int(found[1]), int(found[2])) if found else None
    return position if position is not None and max(position) < 2**64 else None
