"""A chat answer that is sent word by word, like that of a language model.

    vento-wsgi run examples.chat:app
    curl -N http://127.0.0.1:8000/ai/chat --json '{"message": "Hello"}'

If the client leaves, the generator ``words`` is closed, and the model's generator with it.
"""

import time

from vento_wsgi import Event, Response, create_app, create_router

router = create_router()


def answer(message):
    """Replace this by your model: anything that yields text."""
    for word in f"You said: {message}. I would think about that for a while.".split():
        time.sleep(0.2)
        yield word + " "


@router.post("/ai/chat")
def chat(ctx):
    message = ctx.request.json()["message"]

    def words():
        for word in answer(message):
            yield Event({"text": word})
        yield Event("[DONE]")

    return Response(words(), headers={"Content-Type": "text/event-stream"})


app = create_app()
app.use(router)

if __name__ == "__main__":
    app.run()
