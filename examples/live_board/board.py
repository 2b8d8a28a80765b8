"""The board: the cards are in a SQLite file that all workers share; a broker publishes changes.

A change is first written, then published as the whole card, with a revision that grows with every
change to the board. A page keeps the newest revision of each card, so it does not matter if it
gets a change twice or late.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from vento_wsgi import Broker

TOPIC = "live-board"
COLUMNS = ("ideas", "doing", "done")
LONGEST_TEXT = 140

Card = dict[str, Any]
"""id, revision, text, column; the column is None if the card was taken off the board."""

broker = Broker()  # by default a log in a file, shared by all processes of this directory

SCHEMA = """CREATE TABLE IF NOT EXISTS cards (
    id INTEGER PRIMARY KEY AUTOINCREMENT, revision INTEGER NOT NULL,
    text TEXT NOT NULL, "column" TEXT
)"""
NEXT = "(SELECT coalesce(max(revision), 0) + 1 FROM cards)"


def add(text: str, column: str) -> Card:
    with database() as cards:
        query = f'INSERT INTO cards (revision, text, "column") VALUES ({NEXT}, ?, ?)'
        card = one(cards, cards.execute(query, (text, column)).lastrowid)
    broker.publish(TOPIC, card)
    return card


def move(card_id: int, column: str | None) -> Card:
    """Move a card to a column, or off the board (None). Raises LookupError if there is no card."""
    with database() as cards:
        query = f'UPDATE cards SET revision = {NEXT}, "column" = ? WHERE id = ?'
        cards.execute(query, (column, card_id))
        card = one(cards, card_id)
    broker.publish(TOPIC, card)
    return card


def board() -> dict[str, Any]:
    """All cards, the revision of the board, and the event id after which to subscribe."""
    after = broker.subscribe(TOPIC).last_id  # before reading the cards, so no change is missed
    with database() as cards:
        found = [dict(row) for row in cards.execute("SELECT * FROM cards")]
    return {
        "cards": [card for card in found if card["column"]],
        "revision": max((card["revision"] for card in found), default=0),
        "after": after,
    }


def one(cards: sqlite3.Connection, card_id: int | None) -> Card:
    row = cards.execute("SELECT * FROM cards WHERE id = ?", (card_id,)).fetchone()
    if row is None:
        raise LookupError(f"there is no card {card_id}")
    return dict(row)


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """A connection to the cards, in a transaction."""
    path = os.environ.get("LIVE_BOARD", "live-board.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.row_factory = sqlite3.Row
        connection.execute(SCHEMA)
        yield connection
