"""Server-sent events from a plain generator.

    vento-wsgi run examples.events:app
    curl -N http://127.0.0.1:8000/events

In a browser: ``new EventSource("/events")``.
"""

import json
import time

from vento_wsgi import create_app, create_router

router = create_router()


@router.get("/events")
def events(ctx):
    def ticks():
        for count in range(1, 6):
            yield f"data: {json.dumps({'count': count, 'time': time.time()})}\n\n"
            time.sleep(1)

    return ctx.stream(ticks(), "text/event-stream")


app = create_app()
app.use(router)

if __name__ == "__main__":
    app.run()
