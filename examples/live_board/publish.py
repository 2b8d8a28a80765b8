"""Change the board from outside the server: from a script, a cron job, a queue.

    python -m examples.live_board.publish "Water the plants" --column doing
    python -m examples.live_board.publish --every 0.5

Start it in the same directory as the server: both use the files there.
"""

import argparse
import itertools
import random
import time

from . import board

IDEAS = (
    "Water the plants",
    "Order more coffee",
    "Call the printer about the posters",
    "Fix the squeaky door",
    "Book a table for Friday",
    "Write to Marta",
    "Find the other glove",
    "Back up the photos",
    "Try the bakery on the corner",
    "Plan the summer",
)
CROWDED = 9


def stir(idea: str) -> str:
    """Move a random card one column on, or off the board, or add one. Returns what it did."""
    found = board.board()["cards"]
    if not found or (len(found) < CROWDED and random.random() < 0.5):
        board.add(idea, "ideas")
        return f"added {idea}"
    card = random.choice(found)
    following = [*board.COLUMNS[1:], None][board.COLUMNS.index(card["column"])]
    board.move(card["id"], following)
    return f"{card['text']}: {following or 'off the board'}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Change the board from outside the server.")
    parser.add_argument("text", nargs="?", help="a card to add")
    parser.add_argument("--column", choices=board.COLUMNS, default="ideas")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="go on by itself")
    asked = parser.parse_args()
    if asked.text:
        board.add(asked.text, asked.column)
    elif not asked.every:
        parser.error("a text, or --every SECONDS")
    if asked.every:
        for idea in itertools.cycle(IDEAS):
            print(stir(idea), flush=True)
            time.sleep(asked.every)


if __name__ == "__main__":
    main()
