"""Downloads: a file from the disk, and a file that is generated while it is sent.

    python -m zipfile -c large-file.zip vento_wsgi
    vento-wsgi run examples.download:app
    curl -O http://127.0.0.1:8000/download
    curl -O http://127.0.0.1:8000/squares.csv

The file from the disk has a Content-Length, supports ranges, and is closed after the download.
"""

from vento_wsgi import create_app, create_router

router = create_router()


@router.get("/download")
def download(ctx):
    return ctx.stream(open("large-file.zip", "rb"), "application/zip")


@router.get("/squares.csv")
def squares(ctx):
    def rows():
        yield "number,square\r\n"
        for number in range(100_000):
            yield f"{number},{number * number}\r\n"

    return ctx.stream(rows(), "text/csv")


app = create_app()
app.use(router)

if __name__ == "__main__":
    app.run()
